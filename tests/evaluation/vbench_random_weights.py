"""Random checkpoints in VBench's layout, for the real package: ``PYTHON tests/evaluation/vbench_random_weights.py FOLDER``, under VBench's own interpreter.

The networks are VBench's, at random and, where the checkpoint decides the size (CLIP, DINO), small. The heads of the two learned scores are
set so that their values lie where real ones do.
"""

import pathlib
import sys

import torch

HUBCONF = '''
import torch

def dino_vitb16(pretrained=True, **_):
    """Stands where DINO's own code stands, and asks for the weights as that does."""
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(192, 16))
    url = "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth"
    model.load_state_dict(torch.hub.load_state_dict_from_url(url, map_location="cpu"))
    return model
'''


def main(folder: pathlib.Path) -> None:
    torch.manual_seed(0)
    dino = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(192, 16))
    save(dino.state_dict(), folder / "dino_model/dino_vitbase16_pretrain.pth")
    code = folder / "dino_model/facebookresearch_dino_main"
    code.mkdir()
    for name, text in {"hubconf.py": HUBCONF, "vision_transformer.py": "", "utils.py": ""}.items():
        (code / name).write_text(text)
    save_clip(folder / "clip_model/ViT-B-32.pt", embed_dim=64, patch=32)
    save_clip(folder / "clip_model/ViT-L-14.pt", embed_dim=768, patch=14)
    save(
        {"weight": torch.randn(1, 768) * 0.1, "bias": torch.tensor([5.0])}, folder / "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth"
    )
    save(amt(), folder / "amt_model/amt-s.pth")
    save(raft(), folder / "raft_model/models/raft-things.pth")
    save(musiq(), folder / "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth")


def save(content: dict, file: pathlib.Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, file)


def save_clip(file: pathlib.Path, *, embed_dim: int, patch: int) -> None:
    """One block of each tower, as a traced archive like the published ones; ``clip`` reads all sizes from it."""
    from clip.model import CLIP

    model = CLIP(
        embed_dim=embed_dim, image_resolution=224, vision_layers=1, vision_width=64, vision_patch_size=patch,
        context_length=8, vocab_size=16, transformer_width=64, transformer_heads=1, transformer_layers=1,
    ).eval()  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.save(torch.jit.trace(model, (torch.zeros(1, 3, 224, 224), torch.zeros(1, 8, dtype=torch.int64))), file)


def amt() -> dict:
    import vbench
    from omegaconf import OmegaConf
    from vbench.third_party.amt.utils.build_utils import build_from_cfg

    config = OmegaConf.load(pathlib.Path(vbench.__file__).parent / "third_party/amt/cfgs/AMT-S.yaml").network
    # The published checkpoint holds more than tensors, too: torch refuses it unless told to trust it.
    return {"state_dict": build_from_cfg(config).state_dict(), "epoch": pathlib.PurePosixPath("not a tensor")}


def raft() -> dict:
    from easydict import EasyDict
    from vbench.third_party.RAFT.core.raft import RAFT

    model = RAFT(EasyDict(model="", small=False, mixed_precision=False, alternate_corr=False))
    return {f"module.{name}": value for name, value in model.state_dict().items()}


def musiq() -> dict:
    from pyiqa.archs.musiq_arch import MUSIQ

    model = MUSIQ(pretrained=False)
    head = model.state_dict()
    for name in [name for name in head if name.startswith("head")]:
        head[name] = torch.full_like(head[name], 50.0) if name.endswith("bias") else head[name] * 0.01
    return head


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
