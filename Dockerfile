# Two targets: `gpu` on vLLM's official image of the version that vlmserve pins, and `cpu`.

FROM vllm/vllm-openai:v0.32.0 AS gpu
# vLLM, torch and transformers come with the image; their versions are kept, and only what
# evaluation adds is installed.
COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
RUN uv pip install --system --no-cache "/src[eval]" && rm -rf /src
RUN useradd --create-home --uid 10001 vlmserve \
 && install -d -o vlmserve -g vlmserve /home/vlmserve/.cache /reports /store
COPY configs /configs
COPY evals /evals
USER vlmserve
WORKDIR /home/vlmserve
ENV HF_HUB_OFFLINE=1 XDG_DATA_HOME=/store
EXPOSE 8000
ENTRYPOINT ["vlmserve"]
CMD ["--help"]

FROM python:3.11-slim-bookworm AS cpu
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libnuma1 libtcmalloc-minimal4 libgomp1 \
 && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml README.md LICENSE /src/
COPY requirements/cpu.txt /src/requirements/
COPY src /src/src
RUN pip install --no-cache-dir uv \
 && uv pip install --system --no-cache --compile-bytecode --index-strategy unsafe-best-match \
    --extra-index-url https://download.pytorch.org/whl/cpu -r /src/requirements/cpu.txt \
 && uv pip install --system --no-cache --no-deps /src && rm -rf /src
RUN useradd --create-home --uid 10001 vlmserve \
 && install -d -o vlmserve -g vlmserve /home/vlmserve/.cache /reports /store
COPY configs /configs
COPY evals /evals
USER vlmserve
WORKDIR /home/vlmserve
ENV HF_HUB_OFFLINE=1 XDG_DATA_HOME=/store
# vLLM inspects a model class once and keeps the result; the first start need not wait for it.
RUN python -m vlmserve.engine.model_cache Qwen2VLForConditionalGeneration
EXPOSE 8000
ENTRYPOINT ["vlmserve"]
CMD ["--help"]
