#!/usr/bin/env bash
# diffusion-pipe: a LoRA of Wan 2.1 1.3B. In the config:
#   finetune:
#     command: [bash, examples/trainers/diffusion_pipe.sh, "{subset}", "{output}", "{steps}"]
#     command_layout: diffusion_pipe
#     command_checkpoint: "lora/*/step*/adapter_model.safetensors"
# DIFFUSION_PIPE is its checkout, with its environment in .venv. WAN_CKPT is the folder of Wan-AI/Wan2.1-T2V-1.3B, in the original format.
# It takes no seed: trainings of one arm differ by chance alone.
set -euo pipefail
subset=$1 output=$2 steps=$3
cat > "$output/train.toml" <<TOML
output_dir = '$output/lora'
dataset = '$subset/dataset.toml'
epochs = 1000000
max_steps = $steps
save_every_n_steps = $steps
micro_batch_size_per_gpu = 1
gradient_accumulation_steps = 1
gradient_clipping = 1.0
warmup_steps = 50
activation_checkpointing = true
save_dtype = 'bfloat16'

[model]
type = 'wan'
ckpt_path = '${WAN_CKPT:?set it to the folder of the original model}'
dtype = 'bfloat16'
timestep_sample_method = 'logit_normal'

[adapter]
type = 'lora'
rank = 32
dtype = 'bfloat16'

[optimizer]
type = 'adamw_optimi'
lr = 1e-4
betas = [0.9, 0.99]
weight_decay = 0.01
TOML
cd "${DIFFUSION_PIPE:?set it to the checkout of diffusion-pipe}"
PATH="$PWD/.venv/bin:$PATH"
deepspeed --num_gpus=1 train.py --deepspeed --config "$output/train.toml"
