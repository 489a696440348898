#!/usr/bin/env bash
# Trains the toy model's motion modules further, dense ones and 1-D ones for comparison side by side, in about nine minutes of
# one GPU. All else of the model stays, so its subjects do too.
#
#   benchmarks/gpu/toy_motion.sh WORK OUT
#
# WORK holds clips and checkpoints, OUT the results: motion/ and motion-1d/ (motion adapters) and the records. Every stage goes on
# where it stopped. PACE scales the seconds, CLIPS and CLIP_BATCH the sizes, to try it on a CPU. MODEL is whose motion modules are
# trained, FRESH=true begins with new ones, HEADS is how many of the four heads stay along time alone, CARRIED the share of clips
# whose noise moves with what is seen. Run from the root of the repository.
set -euo pipefail
WORK=$1 OUT=$2
PACE=${PACE:-1} RENDER=${RENDER:-110} TRAIN=${TRAIN:-370} CLIPS=${CLIPS:-3000} CLIP_BATCH=${CLIP_BATCH:-24} WORKERS=${WORKERS:-12}
MODEL=${MODEL:-models/toy} MODEL_1D=${MODEL_1D:-models/toy-motion-1d} FRESH=${FRESH:-false} HEADS=${HEADS:-0} CARRIED=${CARRIED:-0.7}
WINDOWS=${WINDOWS:-[[0,3],[60,5],[120,null]]} PRECISION=${PRECISION:-bf16} PYTHON=${PYTHON:-python3}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} TQDM_MININTERVAL=${TQDM_MININTERVAL:-10} TOKENIZERS_PARALLELISM=false
mkdir -p "$WORK" "$OUT"
seconds() { awk "BEGIN { print $PACE * $1 }"; }
say() { echo "$(date +%T) $*"; }
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT

if [ ! -e "$WORK/clips.done" ]; then
  timeout -s INT "$(seconds "$RENDER")" $PYTHON -m diffusers_mvcustom.toy.training clips --output "$WORK" --clips "$CLIPS" \
    --workers "$WORKERS" > "$WORK/clips.log" 2>&1 || true
  touch "$WORK/clips.done"
  say "clips: done"
fi
backbone() { # name, windows, heads along time, motion adapter to begin with or nothing, steps
  local start=(--fresh_motion "$FRESH")
  [ -z "$4" ] || [ "$FRESH" = true ] || start+=(--motion_adapter "$4")
  $PYTHON train_backbone.py --config toy --model "$MODEL" --data "$WORK/clips" --output_dir "$WORK/$1" "${start[@]}" \
    --cache_latents false --vae_batch_size 256 --train_batch_size "$CLIP_BATCH" --num_workers 4 --carried_noise "$CARRIED" \
    --mixed_precision "$PRECISION" --lr_scheduler constant_with_warmup --lr_warmup_steps 100 --learning_rate 0.0005 \
    --checkpointing_steps 200 --resume_from_checkpoint latest --window_schedule "$2" --temporal_heads "$3" --max_train_steps "$5" \
    >> "$WORK/$1.log" 2>&1
}
motion() { # name, windows, heads along time, motion adapter: trains for a while, then ends where it stands
  local checkpoint
  if [ ! -d "$WORK/$1/motion_adapter" ]; then
    PYTHON="timeout -s INT $(seconds "$TRAIN") $PYTHON" backbone "$1" "$2" "$3" "$4" 1000000 || true
    checkpoint=$(find "$WORK/$1/checkpoints" -maxdepth 1 -name 'checkpoint-*' | sed 's/.*-//' | sort -n | tail -1)
    backbone "$1" "$2" "$3" "$4" "$checkpoint"
    say "$1: done, $checkpoint steps"
  fi
  rm -rf "${OUT:?}/$1"
  cp -r "$WORK/$1/motion_adapter" "$OUT/$1"
  cp "$WORK/$1/metrics.jsonl" "$OUT/toy-$1.jsonl"
}
motion motion "$WINDOWS" "$HEADS" '' &
DENSE=$!
motion motion-1d '[[0,1]]' 0 "$MODEL_1D" &
wait $! $DENSE
cp "$WORK"/*.log "$OUT"
