#!/usr/bin/env bash
# SimpleTuner: a LoRA of Wan 2.1 1.3B. In the config:
#   finetune:
#     command: [bash, examples/trainers/simpletuner.sh, "{subset}", "{model}", "{output}", "{steps}", "{seed}"]
#     command_layout: simpletuner
#     command_checkpoint: lora/pytorch_lora_weights.safetensors
# SIMPLETUNER is its checkout, with its environment in .venv.
set -euo pipefail
subset=$1 model=$2 output=$3 steps=$4 seed=$5
cd "${SIMPLETUNER:?set it to the checkout of SimpleTuner}"
PATH="$PWD/.venv/bin:$PATH"
mkdir -p "config/motive"
cat > config/motive/config.json <<JSON
{
  "--model_type": "lora",
  "--model_family": "wan",
  "--pretrained_model_name_or_path": "$model",
  "--pretrained_vae_model_name_or_path": "$model",
  "--data_backend_config": "$subset/multidatabackend.json",
  "--output_dir": "$output/lora",
  "--max_train_steps": $steps,
  "--num_train_epochs": 0,
  "--seed": $seed,
  "--train_batch_size": 1,
  "--lora_rank": 32,
  "--learning_rate": 1e-4,
  "--optimizer": "adamw_bf16",
  "--mixed_precision": "bf16",
  "--gradient_checkpointing": "true",
  "--checkpointing_steps": $((steps + 1)),
  "--validation_disable": "true",
  "--report_to": "none"
}
JSON
ENV=motive ./train.sh
