"""Measures one dimension of VBench on a list of videos. It runs in VBench's own environment and imports nothing from this package.

``python -I runner.py REQUEST.json`` writes its answer to the JSON file that the request names in ``result``. The file appears whole or not at
all, and the exit code is 0 only if it exists. VBench's own output is ignored. The process ends when its standard input closes, so it never
outlives its parent.

A request whose ``dimension`` is None asks only what is installed. Any other request has ``dimension``, ``mode`` (VBench's), ``device``,
``min_frames``, ``sampled_fps``, ``torch_hub`` (file name -> path) and ``videos``: [{``name``: the file name for VBench, ``path``}].
"""

import importlib
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
import threading

PACKAGES = ("vbench", "torch", "torchvision", "numpy", "opencv-python-headless", "opencv-python", "decord", "openai-clip", "timm", "pyiqa")


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        request = json.load(file)
    scratch = tempfile.mkdtemp(prefix="motive-vbench-")
    threading.Thread(target=_end_with_parent, args=[scratch], daemon=True).start()
    try:
        answer = measured(request, scratch) if request["dimension"] else installed(request)
        unfinished = request["result"] + ".part"
        with open(unfinished, "w", encoding="utf-8") as file:
            json.dump(answer, file)
        os.replace(unfinished, request["result"])
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def installed(request):
    """Versions, the device to run on (see ``_device``), and the prompts of VBench's suite for the requested dimensions."""
    answer = {"versions": _versions(), "device": _device(request["device"])}
    if request["suite"]:
        vbench = importlib.import_module("vbench")
        with open(os.path.join(vbench.__path__[0], "VBench_full_info.json"), encoding="utf-8") as file:
            suite = json.load(file)
        answer["suite"] = {name: [entry["prompt_en"] for entry in suite if name in entry["dimension"]] for name in request["suite"]}
    return answer


def measured(request, scratch):
    """VBench's value of each video that is long enough, facts about these videos, and the reasons why the others are not measured."""
    _lay_out_torch_hub(request["torch_hub"], scratch)
    folder = os.path.join(scratch, "videos")
    os.mkdir(folder)
    seen, unusable = {}, {}
    for video in request["videos"]:
        look = _inspect(video["path"])
        problem = _problem(look, request)
        if problem:
            unusable[video["name"]] = problem
        else:
            seen[video["name"]] = look
            os.symlink(os.path.abspath(video["path"]), os.path.join(folder, video["name"]))
    score, results = _run_vbench(request, folder, scratch) if seen else (None, [])
    return {
        "versions": _versions(),
        "device": request["device"],
        "score": score,
        "values": [[os.path.basename(each["video_path"]), float(each["video_results"])] for each in results],
        "seen": seen,
        "unusable": unusable,
    }


def _run_vbench(request, folder, scratch):
    import torch

    vbench = importlib.import_module("vbench")
    info = os.path.join(vbench.__path__[0], "VBench_full_info.json")
    # Pass a torch.device, as VBench's own command does: with a string, motion_smoothness would shrink frames to fit the GPU's memory.
    bench = vbench.VBench(torch.device(request["device"]), info, scratch)
    with torch.no_grad():
        bench.evaluate(videos_path=folder, name="motive", dimension_list=[request["dimension"]], local=True, mode=request["mode"])
    with open(os.path.join(scratch, "motive_eval_results.json"), encoding="utf-8") as file:
        return json.load(file)[request["dimension"]]


def _inspect(path):
    """Frames, fps and size of the file as read by OpenCV, which VBench's motion dimensions use."""
    import cv2

    capture = cv2.VideoCapture(path)
    count = 0
    while capture.isOpened() and capture.grab():
        count += 1
    size = [int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))]
    look = {"num_frames": count, "fps": float(capture.get(cv2.CAP_PROP_FPS)), "size": size}
    capture.release()
    return look


def _problem(look, request):
    """The reason why VBench cannot measure this video, or an empty text."""
    if not look["num_frames"]:
        return "no frame of it can be read"
    step = max(1, round(look["fps"] / request["sampled_fps"])) if request["sampled_fps"] else 1
    left = -(-look["num_frames"] // step)
    if left < request["min_frames"]:
        sampled = f" at every {step}. frame" if step > 1 else ""
        return f"{request['dimension']} needs {request['min_frames']} frames{sampled}, it has {left}"
    return ""


def _lay_out_torch_hub(files, scratch):
    """Put the weights into torch.hub's folder, where DINO's code finds them without a download."""
    checkpoints = os.path.join(scratch, "torch", "hub", "checkpoints")
    os.makedirs(checkpoints)
    for name, path in files.items():
        os.symlink(os.path.abspath(path), os.path.join(checkpoints, name))
    os.environ["TORCH_HOME"] = os.path.join(scratch, "torch")


def _device(name):
    """``name``, or the device that ``auto`` stands for; None if torch does not find it."""
    if name == "cpu":
        return name
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if count else "cpu"
    return name if int(name.partition(":")[2] or 0) < count else None


def _versions():
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _end_with_parent(scratch):
    while os.read(0, 4096):  # os.read and not sys.stdin: this thread would hold its lock when the interpreter exits, which aborts
        continue
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(3)


if __name__ == "__main__":
    main()
