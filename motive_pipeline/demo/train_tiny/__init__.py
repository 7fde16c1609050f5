"""Trains the embedded model: a Wan pipeline of about 2 M parameters that generates films like the demo data's.

    python -m motive_pipeline.demo.train_tiny --out FOLDER --work FOLDER [--start FINISHED] [--stages vae latents transformer check]

The stages pass their results as files in `--work`. A stage whose file exists is skipped unless it is named in `--stages`, and an interrupted
training continues from its last checkpoint. `--out` receives the pipeline in diffusers' layout (`WanPipeline.from_pretrained(FOLDER)`), fp16,
with a `training.json` that records duration and machine. The films use seeds from `TRAIN_SEED` upwards, which no user of the demo gets by
accident.

Axes, in all files: B batch, N clips, T frames, F latent frames, C channels, H W pixels, h w latent pixels, L prompt tokens, E embedding width.
"""
