# CPU image: docker build -t vae . && docker run -v "$PWD/outputs:/vae/outputs" -v "$PWD/data:/vae/data" vae latent_dim=20
FROM python:3.12-slim

# make sets up the environment; npm fetches datasets; g++ compiles training steps
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make npm \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /vae
COPY . .
RUN make install

ENTRYPOINT [".venv/bin/python", "train.py"]
