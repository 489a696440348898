#!/usr/bin/env bash
# Trains the toy model further on one GPU in about nine minutes, from models/toy, with stages side by side:
#
#   views, then clips (rendered by the CPU all the while)
#   autoencoder -> images -> dense motion modules, and 1-D ones for comparison
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
WINDOWS=${WINDOWS:-[[0,null]]}
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
backbone() { # name, windows, heads along time, steps
  $PYTHON train_backbone.py --config toy --model "$WORK/single-views" --data "$WORK/clips" --output_dir "$WORK/$1" \
    --cache_latents false --vae_batch_size 256 --train_batch_size "$CLIP_BATCH" --num_workers 4 \
    --mixed_precision "$PRECISION" --lr_scheduler constant_with_warmup --lr_warmup_steps 100 --learning_rate 0.0005 \
    --checkpointing_steps 200 --resume_from_checkpoint latest --window_schedule "$2" --temporal_heads "$3" --max_train_steps "$4" \
    >> "$WORK/$1.log" 2>&1
}
motion() { # name, windows, heads along time: trains for a while, then ends where it stands
  local checkpoint
  [ -d "$WORK/$1/motion_adapter" ] && return
  PYTHON="timeout -s INT $(seconds 150) $PYTHON" backbone "$1" "$2" "$3" 1000000 || true
  checkpoint=$(find "$WORK/$1/checkpoints" -maxdepth 1 -name 'checkpoint-*' | sed 's/.*-//' | sort -n | tail -1)
  backbone "$1" "$2" "$3" "$checkpoint"
  say "$1: done, $checkpoint steps"
}
motion motion "$WINDOWS" 2 &
DENSE=$!
motion motion-1d '[[0,1]]' 0 &
wait $! $DENSE $READER

stage assemble --model "$OUT/toy-model" --start-from models/toy --motion-adapter "$WORK/motion/motion_adapter" \
  --reader "$OUT/toy-attribute-reader"
cp -r "$WORK/motion-1d/motion_adapter" "$OUT/motion-1d"
for name in autoencoder depth images reader motion motion-1d; do
  cp "$WORK/$name/metrics.jsonl" "$OUT/toy-$name.jsonl"
done
cp "$WORK"/*.log "$OUT"
say "all done after $(($(date +%s) - STARTED)) s"
