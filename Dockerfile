# SPDX-License-Identifier: Apache-2.0
# Everything from the package index; see docs/installation.md.
FROM python:3.11-slim

WORKDIR /opt/longtail
COPY constraints.txt ./
RUN sed -n '/^\(pip\|setuptools\|wheel\)==/,/[^\\]$/p' constraints.txt > build_tools.txt \
    && python -m pip install --no-cache-dir --require-hashes --no-deps -r build_tools.txt \
    && python -m pip install --no-cache-dir --require-hashes --no-deps --no-build-isolation \
        -r constraints.txt
COPY setup.py pyproject.toml README.md LICENSE ./
COPY longtail longtail
COPY projects projects
COPY configs configs
RUN python -m pip install --no-cache-dir --no-build-isolation --no-deps . \
    && longtail install-detectron2

WORKDIR /work
ENTRYPOINT ["longtail"]
