# SPDX-License-Identifier: Apache-2.0
# Everything from the package index; see docs/installation.md.
FROM python:3.11-slim

WORKDIR /opt/longtail
COPY constraints.txt ./
RUN python -m pip install --no-cache-dir --constraint constraints.txt pip setuptools wheel
COPY setup.py pyproject.toml README.md LICENSE ./
COPY longtail longtail
COPY projects projects
COPY configs configs
RUN python -m pip install --no-cache-dir --no-build-isolation --constraint constraints.txt ".[demo,coco-stuff,digits-lt]"
RUN PIP_CONSTRAINT=constraints.txt longtail install-detectron2

WORKDIR /work
ENTRYPOINT ["longtail"]
