"""The frame of the app: page, navigation, language, model and device; nothing else."""

from mhmoe.ui import frame

shell = frame.open_frame()
shell.page.run()
frame.close_frame(shell, frame.device_line())
