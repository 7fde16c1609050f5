"""The sizes of a model's components: all that memory and time are predicted from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DenoiserShape:
    """A transformer: ``width`` is that of the tokens, ``ffn`` the inner one of the feed-forward, ``largest`` the entries of its largest parameter.

    ``patch`` is (frames, height, width) in latent cells. ``token_timesteps``: every token has a timestep of its own (Wan 2.2 TI2V). ``takes_image``: its
    cross-attention has keys of an image, too (Wan 2.1 I2V). ``linears`` are
    (name, outputs, inputs) of its Linear layers. ``file_bytes``: the size of its weights as they are stored; 0 if it is not at hand.
    """

    num_layers: int
    width: int
    ffn: int
    text_dim: int
    patch: tuple[int, int, int]
    parameters: int
    largest: int
    token_timesteps: bool = False
    takes_image: bool = False
    linears: tuple[tuple[str, int, int], ...] = ()
    file_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class VaeShape:
    """A VAE: channels of its first encoder and last decoder layer, the side of the squares of pixels it takes in as channels, and its latent grid."""

    parameters: int
    encoder_width: int
    decoder_width: int
    patch: int
    channels: int
    temporal_stride: int
    spatial_stride: int


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A whole model. ``experts`` is the number of its denoisers, all of one shape. ``image_parameters`` are those of its image encoder, if it has one.

    ``starts_from_frame``: it can do image-to-video alone.
    """

    denoiser: DenoiserShape
    vae: VaeShape
    text_parameters: int
    image_parameters: int = 0
    experts: int = 1
    starts_from_frame: bool = False

    def num_tokens(self, num_frames: int, height: int, width: int) -> int:
        """The tokens of a clip of that many decoded frames of that many pixels."""
        frames, latent_height, latent_width = self.latent_size(num_frames, height, width)
        patch_frames, patch_height, patch_width = self.denoiser.patch
        return -(-frames // patch_frames) * (latent_height // patch_height) * (latent_width // patch_width)

    def latent_size(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(frames, height, width) of a clip's latents."""
        stride = self.vae.spatial_stride
        return (num_frames - 1) // self.vae.temporal_stride + 1, height // stride, width // stride
