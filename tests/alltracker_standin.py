"""A checkout in AllTracker's layout whose network is small enough to foretell: for the adapter's own logic, where the real one is not at hand.

Its flow is what the colours say: dx is how much redder a picture is than the first on the scale from 0 to 255, dy how much bluer, in
pixels of the pictures it is given; times ``gain``, its one weight.
"""

from pathlib import Path

import torch

NET = """
import torch
import utils.misc

class Net(torch.nn.Module):
    def __init__(self, seqlen, use_basicencoder=False, no_split=False, init_weights=True):
        super().__init__()
        assert not init_weights, "with init_weights the real one downloads weights"
        assert use_basicencoder == no_split
        self.seqlen = seqlen
        self.gain = torch.nn.Parameter(torch.zeros(2 if use_basicencoder else 1))

    def get_fmaps(self, images_, B, T, sw, is_training):
        if not is_training:
            images_ = images_.cuda()
        return images_.mean(dim=(2, 3))

    def forward_sliding(self, images, iters=4, sw=None, is_training=False, window_len=None, stride=None):
        B, T, C, H, W = images.shape
        assert (B, C) == (1, 3) and min(H, W) >= 128 and T >= 2 and images.dtype == torch.float32
        assert not torch.is_grad_enabled() and not self.training and not is_training
        fmaps = []
        for start in range(0, T, self.seqlen):
            window = images[0, start : start + self.seqlen]
            fmaps.append(self.get_fmaps(window, B, len(window), sw, is_training))
        colours = torch.cat(fmaps) * self.gain.sum()
        change = utils.misc.channels(colours - colours[:1])
        flows = change[None, :, :, None, None].expand(1, T, 2, H, W)
        seen = torch.tensor([0.75, 0.25]).reshape(1, 1, 2, 1, 1).expand(1, T, 2, H, W)
        if T == 2:
            return flows[:, 1], seen[:, 1], [], []
        return flows, seen, None, None
"""

MISC = """
def channels(colours):
    return colours[:, [0, 2]]
"""


def write_checkout(folder: Path) -> Path:
    """``nets`` and ``utils`` below ``folder``, as namespace packages, as in the real one."""
    for name, text in (("nets/alltracker.py", NET), ("utils/misc.py", MISC)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def write_weights(file: Path, gain: float = 1.0) -> Path:
    """Weights of the full variant, saved as the real ones are."""
    torch.save({"model": {"gain": torch.tensor([gain])}}, file)
    return file
