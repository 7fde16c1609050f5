#!/usr/bin/env bash
# DiffSynth-Studio: a LoRA of Wan 2.1 1.3B. In the config:
#   finetune:
#     command: [bash, examples/trainers/diffsynth.sh, "{subset}", "{output}", "{steps}"]
#     command_layout: diffsynth
#     command_checkpoint: lora.safetensors
# DIFFSYNTH is its checkout, with its environment in .venv. It counts passes over the clips, one clip a step: it is given enough passes, and the LoRA after
# {steps} steps is kept. It takes no seed: trainings of one arm differ by chance alone.
set -euo pipefail
subset=$1 output=$2 steps=$3
clips=$(wc -l < "$subset/metadata.jsonl")
cd "${DIFFSYNTH:?set it to the checkout of DiffSynth-Studio}"
PATH="$PWD/.venv/bin:$PATH"
accelerate launch examples/wanvideo/model_training/train.py \
  --dataset_base_path "$subset" --dataset_metadata_path "$subset/metadata.jsonl" --height 480 --width 832 --num_frames 81 \
  --dataset_repeat $(((steps + clips - 1) / clips)) --num_epochs 1 --save_steps "$steps" \
  --model_id_with_origin_paths "Wan-AI/Wan2.1-T2V-1.3B:diffusion_pytorch_model*.safetensors,Wan-AI/Wan2.1-T2V-1.3B:models_t5_umt5-xxl-enc-bf16.pth,Wan-AI/Wan2.1-T2V-1.3B:Wan2.1_VAE.pth" \
  --learning_rate 1e-4 --lora_base_model dit --lora_target_modules "q,k,v,o,ffn.0,ffn.2" --lora_rank 32 \
  --remove_prefix_in_ckpt "pipe.dit." --output_path "$output"
mv "$output/step-$steps.safetensors" "$output/lora.safetensors"
