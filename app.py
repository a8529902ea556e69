"""The frame of the app: page, navigation, language, model and device; nothing else."""

from mhmoe.ui import frame

shell = frame.open_frame()
frame.run_page(shell)
frame.close_frame(shell, frame.status_line())
