# lingraft on a CPU: training small models, merging, exporting and serving them.
#
#   docker build -t lingraft .
#   docker run --rm -v "$PWD/runs:/work/runs" lingraft quickstart
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/runs:/work/runs" lingraft \
#       serve runs/quickstart/merged --host 0.0.0.0 --port 8000 --api-key CHOOSE-ONE
#
# For a GPU, take a torch build for it instead: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=llamacpp,serve,studio,clean,kquants

# libgomp: torch and llama.cpp compute with OpenMP
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir torch==2.13.0 --index-url "$TORCH_INDEX"

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY lingraft ./lingraft
RUN pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]"

RUN useradd --create-home lingraft && mkdir /work && chown lingraft /work
USER lingraft
WORKDIR /work
ENTRYPOINT ["lingraft"]
CMD ["--help"]
