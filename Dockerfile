# The environment of requirements.lock, for machines without Python 3.11 and for clusters. The project is mounted.
#
#     docker build --tag noisy-student .
#     docker build --tag noisy-student --build-arg TORCH=https://download.pytorch.org/whl/cu130 .    # with CUDA
#     docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/project" noisy-student
#
# On a GPU, add --gpus all. Several ranks need --shm-size 8g and --env NOISY_STUDENT_TORCHRUN. We have not built it.
FROM python:3.11.13-slim-bookworm

ARG TORCH=https://download.pytorch.org/whl/cpu

RUN apt-get update \
 && apt-get install --yes --no-install-recommends git=1:2.39.* \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --create-home person

COPY requirements.lock /environment/
RUN pip install --no-cache-dir --extra-index-url "$TORCH" --requirement /environment/requirements.lock

USER 1000
WORKDIR /project
# whoever runs it need not be the person above: DVC asks for a name, and nothing is written to a home
ENV USER=person HOME=/tmp XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/matplotlib DVC_SITE_CACHE_DIR=/tmp/dvc \
    PYTHONUNBUFFERED=1
CMD ["dvc", "repro"]
