#!/usr/bin/env bash
# ai-toolkit: a LoRA of Wan 2.1 1.3B. In the config:
#   finetune:
#     command: [bash, examples/trainers/ai_toolkit.sh, "{subset}", "{model}", "{output}", "{steps}"]
#     command_layout: ai_toolkit
#     command_checkpoint: lora/lora.safetensors
# AI_TOOLKIT is its checkout, with its environment in .venv. It takes no seed: trainings of one arm differ by chance alone.
set -euo pipefail
subset=$1 model=$2 output=$3 steps=$4
{
  cat <<YAML
job: extension
config:
  name: lora
  process:
    - type: sd_trainer
      training_folder: "$output"
      device: cuda:0
      network: {type: lora, linear: 32, linear_alpha: 32}
      save: {dtype: float16, save_every: $((steps + 1)), max_step_saves_to_keep: 1}
YAML
  sed 's/^/      /' "$subset/datasets.yaml"
  cat <<YAML
      train:
        batch_size: 1
        steps: $steps
        gradient_accumulation: 1
        train_unet: true
        train_text_encoder: false
        gradient_checkpointing: true
        noise_scheduler: flowmatch
        optimizer: adamw8bit
        lr: 1.0e-4
        disable_sampling: true
        dtype: bf16
      model: {name_or_path: "$model", arch: wan21, quantize_te: true}
YAML
} > "$output/train.yaml"
cd "${AI_TOOLKIT:?set it to the checkout of ai-toolkit}"
PATH="$PWD/.venv/bin:$PATH"
python run.py "$output/train.yaml"
