#!/usr/bin/env bash
# Trains the toy model further on one GPU in about nine minutes, from models/toy, with stages side by side:
#
#   views, then clips (rendered by the CPU all the while)
#   autoencoder -> images -> dense motion modules, and 1-D ones for comparison (toy_motion.sh)
#   depth model (beside autoencoder and images)     attribute reader (beside the motion modules)
#
#   benchmarks/gpu/toy_model.sh WORK OUT [DEVICE]
#
# WORK holds views and checkpoints, OUT the results: toy-model/ (a model folder), toy-attribute-reader/, motion-1d/ and
# the records of all trainings. Every stage goes on where it stopped. PACE scales the seconds of the trainings, SCENES,
# CLIPS, BATCH and CLIP_BATCH the sizes, to try it on a CPU. Run from the root of the repository.
set -euo pipefail
WORK=$1 OUT=$2 DEVICE=${3:-cuda}
PACE=${PACE:-1} SCENES=${SCENES:-40000} CLIPS=${CLIPS:-3000} BATCH=${BATCH:-768} CLIP_BATCH=${CLIP_BATCH:-24}
WORKERS=${WORKERS:-12} LOADERS=${LOADERS:-8} READER_SCENES=${READER_SCENES:-3000} PRECISION=${PRECISION:-bf16}
WINDOWS=${WINDOWS:-[[0,1],[60,3],[120,5],[180,null]]}
PYTHON=${PYTHON:-python3}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} TQDM_MININTERVAL=${TQDM_MININTERVAL:-10} TOKENIZERS_PARALLELISM=false
mkdir -p "$WORK" "$OUT"
seconds() { awk "BEGIN { print $PACE * $1 }"; }
say() { echo "$(date +%T) $*"; }
stage() {
  local name=$1
  shift
  [ ! -e "$WORK/$name.done" ] || return 0  # its seconds are over
  $PYTHON -m diffusers_mvcustom.toy.training "$name" --output "$WORK" "$@" >> "$WORK/$name.log" 2>&1
  [ "$name" = assemble ] || touch "$WORK/$name.done"
  say "$name: done"
}
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT
STARTED=$(date +%s)

# What the CPU renders: views first, then clips for the motion modules.
(
  timeout -s INT "$(seconds 150)" nice -n 10 $PYTHON -m diffusers_mvcustom.toy.training views --output "$WORK" --scenes "$SCENES" \
    --workers "$WORKERS" > "$WORK/views.log" 2>&1 || true
  say "views: done"
  timeout -s INT "$(seconds 130)" nice -n 10 $PYTHON -m diffusers_mvcustom.toy.training clips --output "$WORK" --clips "$CLIPS" \
    --workers "$WORKERS" > "$WORK/clips.log" 2>&1 || true
  touch "$WORK/clips.done"
  say "clips: done"
) &
RENDERING=$!
until [ -e "$WORK/views/views.json" ]; do sleep 0.5; done

common=(--scenes "$SCENES" --device "$DEVICE" --start-from models/toy --max-steps 1000000)
stage depth "${common[@]}" --batch-size $((BATCH / 6)) --seconds "$(seconds 150)" &
DEPTH=$!
stage autoencoder "${common[@]}" --batch-size $((BATCH / 8)) --seconds "$(seconds 60)"
stage images "${common[@]}" --batch-size "$BATCH" --seconds "$(seconds 215)" --loaders "$LOADERS" --learning-rate 0.001
wait $DEPTH $RENDERING
[ -e "$WORK/single-views/model_index.json" ] || stage assemble --model "$WORK/single-views" --start-from models/toy

stage reader --scenes "$READER_SCENES" --workers 4 --device "$DEVICE" --batch-size $((BATCH / 3)) --max-steps 1000000 \
  --seconds "$(seconds 80)" &
READER=$!
MODEL="$WORK/single-views" FRESH=true TRAIN=150 WINDOWS="$WINDOWS" PACE="$PACE" CLIP_BATCH="$CLIP_BATCH" PRECISION="$PRECISION" \
  PYTHON="$PYTHON" benchmarks/gpu/toy_motion.sh "$WORK" "$OUT"
wait $READER

stage assemble --model "$OUT/toy-model" --start-from models/toy --motion-adapter "$WORK/motion/motion_adapter" \
  --reader "$OUT/toy-attribute-reader"
for name in autoencoder depth images reader; do
  cp "$WORK/$name/metrics.jsonl" "$OUT/toy-$name.jsonl"
done
cp "$WORK"/*.log "$OUT"
say "all done after $(($(date +%s) - STARTED)) s"
