#!/usr/bin/env bash
# Docker 없이 두 Dockerfile을 처음부터 끝까지 지어 본다(root인 Debian, `apt-get install buildah debootstrap`).
#
#   docker/rehearse.sh cpu /tmp/rehearsal [buildah build에 더할 인자 …]
#   docker/rehearse.sh lab /tmp/rehearsal …        Dockerfile.ngc의 lab이나 triton. 바탕은 가짜다(아래)
#
# 이미지 저장소에 닿지 않는 기계를 위한 것이다. 바탕을 내려받는 대신 debootstrap이 같은 Debian을 만들고, 나머지는 buildah가
# Dockerfile의 줄을 그대로 실행한다. NGC의 바탕은 만들 수 없으므로 그 모양만 흉내 낸다: 1000번 사용자 ubuntu, PIP_CONSTRAINT,
# 시스템에 깔린 PyTorch(CPU용). 그러므로 단계가 맞는지만 보여 주고 GPU와 Triton에 대해서는 아무것도 말하지 않는다.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=$1 work=$2
shift 2
export BUILDAH_ISOLATION=chroot BUILDAH_FORMAT=docker
debian=$(sed -n 's/^FROM \(debian:.*\)/\1/p' docker/Dockerfile)
ngc=$(sed -n 's/^ARG NGC=//p' docker/Dockerfile.ngc)

if [ ! -e "$work/base/etc/debian_version" ]; then
    mkdir -p "$work"
    debootstrap --variant=minbase bookworm "$work/base"
fi
if ! buildah inspect --type image "docker.io/library/$debian" > /dev/null 2>&1; then
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$work/base" / > /dev/null
    buildah config --cmd bash "$container"
    buildah commit --quiet --rm "$container" "docker.io/library/$debian" > /dev/null
fi

if [ "$kind" = cpu ]; then
    buildah build --pull-never --tag llm-workshop:cpu --file docker/Dockerfile "$@" .
    exit
fi

base=nvcr.io/nvidia/$([ "$kind" = lab ] && echo pytorch || echo tritonserver):$ngc
if ! buildah inspect --type image "$base" > /dev/null 2>&1; then
    packages=$([ "$kind" = lab ] && echo "torch==2.13.0 numpy==2.1.3" || echo numpy==2.1.3)
    buildah build --pull-never --tag "$base" "$@" --file - . <<FAKE
FROM $debian
ENV PIP_CONSTRAINT=/etc/pip/constraint.txt
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates python3-pip && useradd --create-home --uid 1000 ubuntu
RUN PIP_CONSTRAINT= python3 -m pip install --break-system-packages --no-cache-dir --no-compile $packages \\
    && mkdir /etc/pip && echo numpy==2.1.3 > /etc/pip/constraint.txt
FAKE
fi
buildah build --pull-never --tag "llm-workshop:$kind" --target "$kind" --file docker/Dockerfile.ngc "$@" .
