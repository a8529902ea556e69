# make app    set up everything and open the app
# make test   set up everything, check the style, run all tests, browser tests included
#
# Passed through: PYTHON (3.11 or newer), PORT, MHMOE_DEVICE, and pip's own PIP_* variables.

PYTHON ?= python3
PORT ?= 8501
VENV := .venv
RUN := $(VENV)/bin/python
BROWSERS := chromium chromium-browser google-chrome google-chrome-stable

.PHONY: app test check browser clean

app: $(VENV)/.app
	$(RUN) -m mhmoe.ui.launch --port $(PORT)

test: check browser
	$(RUN) -m pytest

check: $(VENV)/.test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

# The stamps are newer than what was installed from, so an unchanged setup costs nothing.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; set PYTHON to one."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.app: requirements.txt | $(VENV)/bin/python
	$(RUN) -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.test: tests/requirements.txt tests/requirements-no-deps.txt $(VENV)/.app
	$(RUN) -m pip install --disable-pip-version-check -r tests/requirements.txt
	$(RUN) -m pip install --disable-pip-version-check --no-deps -r tests/requirements-no-deps.txt
	@touch $@

# A browser of the system is used where there is one; otherwise Playwright fetches its own, once.
browser: $(VENV)/.test
	@for name in $(BROWSERS); do command -v $$name >/dev/null && exit 0; done; \
	  $(RUN) -m playwright install chromium

clean:
	rm -rf $(VENV)
