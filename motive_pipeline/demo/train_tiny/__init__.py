"""Trains the embedded model: a Wan pipeline of about 2 M parameters that draws the demo data's little films.

    python -m motive_pipeline.demo.train_tiny --out FOLDER --work FOLDER [--start FINISHED] [--stages vae latents transformer check]

The stages hand over through files in `--work`; a stage whose file is there is skipped unless it is named in `--stages`, and a training
that was broken off goes on from its last checkpoint. `--out` receives diffusers' own layout (`WanPipeline.from_pretrained(FOLDER)`), fp16, with a `training.json` that
says how long it took and on what. The films come from seeds at and above `TRAIN_SEED`, which no user of the demo gets by accident.

Axes, in all files: B batch, N clips, T frames, F latent frames, C channels, H W pixels, h w latent pixels, L prompt tokens, E embedding width.
"""
