#!/usr/bin/env bash
# Starts Triton on what all avatars share (/model_repository) and on the avatars (/avatars).
#   LIPSTREAM_LOAD       ids of the avatars to load at the start, separated by spaces; others come over gRPC
#   LIPSTREAM_GPU_SLOTS  executions at a time on the GPU, over the networks of all avatars (8)
#   LIPSTREAM_ADMIN_KEY  if set, model control and settings want it in a header, over gRPC and HTTP
# Arguments are passed to tritonserver after these.
set -euo pipefail

shared=${LIPSTREAM_MODELS:-/model_repository}
avatars=${LIPSTREAM_AVATARS:-/avatars}

fail() {
  echo "entrypoint: $1" >&2
  exit 1
}

for folder in "$shared" "$avatars"; do
  if [ ! -d "$folder" ]; then fail "there is no folder $folder: mount one there"; fi
done

# Absolute, since the working folder changes below.
shared=$(cd "$shared" && pwd)
avatars=$(cd "$avatars" && pwd)

models=()
for config in "$shared"/*/config.pbtxt; do
  if [ -f "$config" ]; then models+=("$(basename "$(dirname "$config")")"); fi
done
for id in ${LIPSTREAM_LOAD:-}; do
  if [[ ! $id =~ ^[a-z0-9][a-z0-9_-]{0,63}$ ]]; then fail "LIPSTREAM_LOAD: '$id' is not an avatar id"; fi
  before=${#models[@]}
  # An avatar whose audio features are not computed here has no ensemble that takes speech.
  for name in "avatar_$id" "features_$id"; do
    if [ -f "$avatars/$name/config.pbtxt" ]; then models+=("$name"); fi
  done
  if [ "${#models[@]}" = "$before" ]; then fail "LIPSTREAM_LOAD: there is no avatar $id in $avatars"; fi
done

# The first load of a Python model would write __pycache__ into its folder; Triton would take the new
# time stamp for a new model, and load it again with the next avatar. A read-only mount cannot change,
# and needs nothing.
python3 -m compileall -q "$shared" >/dev/null 2>&1 || true

args=(
  --model-repository="$shared"
  --model-repository="$avatars"
  # The client side decides which avatars are loaded, over gRPC.
  --model-control-mode=explicit
  # One avatar that cannot be loaded does not make the server unfit for all others.
  --strict-readiness=false
  # Configs are complete; completing one costs an extra Python process for each load.
  --disable-auto-complete-config
  # All interfaces of the container; compose.yaml publishes the ports on the host's loopback address.
  --grpc-address=0.0.0.0
  --grpc-port=8001
  --http-address=0.0.0.0
  --http-port=8000
  --metrics-address=0.0.0.0
  --metrics-port=8002
  --allow-gpu-metrics=true
  # Clients ping every 10 s, with calls or without: by default Triton would hang up ("too_many_pings").
  --grpc-http2-min-recv-ping-interval-without-data=5000
  --grpc-http2-max-pings-without-data=0
  --grpc-http2-max-ping-strikes=5
  # A client that is gone is noticed within 30 s.
  --grpc-keepalive-permit-without-calls=1
  --grpc-keepalive-time=20000
  --grpc-keepalive-timeout=10000
  # Every avatar's network has 8 instances: no more than 8 of all of them run at a time.
  --rate-limit=execution_count
  --rate-limit-resource=gpu_slot:"${LIPSTREAM_GPU_SLOTS:-8}"
  # A stub imports numpy while others do: longer than the default 30 s where the machine is busy.
  --backend-config="python,stub-timeout-seconds=120"
  # Less than compose.yaml's stop_grace_period: requests in flight finish, then Triton ends by itself.
  --exit-timeout-secs=20
)
for name in "${models[@]}"; do args+=(--load-model="$name"); done

# A load with a file override can run code. Inference, health and metadata stay open.
if [ -n "${LIPSTREAM_ADMIN_KEY:-}" ]; then
  protocols=model-repository,model-config,shared-memory,statistics,trace,logging
  restricted="$protocols:admin-key=$LIPSTREAM_ADMIN_KEY"
  args+=(--grpc-restricted-protocol="$restricted" --http-restricted-api="$restricted")
fi

# The C allocator does not give all memory of unloaded models back; tcmalloc does.
tcmalloc=/usr/lib/$(uname -m)-linux-gnu/libtcmalloc.so.4
if [ -f "$tcmalloc" ]; then export LD_PRELOAD="$tcmalloc${LD_PRELOAD:+:$LD_PRELOAD}"; fi

# The ONNX Runtime backend takes the path of an engine cache (`export engine --accelerator`) from here on.
cd "$avatars"

# exec: Triton is to get the container's signals itself.
exec tritonserver "${args[@]}" "$@"
