.DEFAULT_GOAL := help
.PHONY: help install demo lint types test slow coverage docs ci

help:  ## print these targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

install:  ## install the package with what its development needs
	pip install -c constraints.txt -e '.[dev]'

demo:  ## train and compare the twelve models on generated data
	python launch/sweep.py --grid paper12

lint:  ## check style and format
	ruff check .
	ruff format --check .

types:  ## check types
	mypy

test:  ## run the tests
	pytest

slow:  ## run the tests that take minutes
	pytest -m slow -n 2 --dist loadfile

coverage:  ## run the tests and print which lines of cxr_ray/ they leave out
	coverage erase
	coverage run -m pytest
	coverage combine --quiet
	coverage report --show-missing

docs:  ## build the documentation as a site in site/
	mkdocs build --strict --clean -f .mkdocs.yml

ci:  ## all that a change must pass, in a fresh virtual environment
	.ci/run
