#!/usr/bin/env bash
# musubi-tuner: a LoRA of Wan 2.1 1.3B. In the config:
#   finetune:
#     command: [bash, examples/trainers/musubi.sh, "{subset}", "{output}", "{steps}", "{seed}"]
#     command_layout: musubi
#     command_checkpoint: lora.safetensors
# MUSUBI is its checkout, with its environment in .venv. WAN_DIT, WAN_VAE and WAN_T5 are its model files, in the original format.
set -euo pipefail
subset=$1 output=$2 steps=$3 seed=$4
cd "${MUSUBI:?set it to the checkout of musubi-tuner}"
PATH="$PWD/.venv/bin:$PATH"
python src/musubi_tuner/wan_cache_latents.py --dataset_config "$subset/dataset.toml" --vae "$WAN_VAE"
python src/musubi_tuner/wan_cache_text_encoder_outputs.py --dataset_config "$subset/dataset.toml" --t5 "$WAN_T5" --batch_size 16
accelerate launch --num_cpu_threads_per_process 1 --mixed_precision bf16 src/musubi_tuner/wan_train_network.py \
  --task t2v-1.3B --dit "$WAN_DIT" --dataset_config "$subset/dataset.toml" --sdpa --mixed_precision bf16 \
  --network_module networks.lora_wan --network_dim 32 --learning_rate 1e-4 --optimizer_type adamw8bit --gradient_checkpointing \
  --timestep_sampling shift --discrete_flow_shift 3.0 --max_train_steps "$steps" --seed "$seed" \
  --output_dir "$output" --output_name lora
