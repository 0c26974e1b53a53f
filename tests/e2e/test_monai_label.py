"""MONAI Label's interface, asked in the very words of its plug-ins for 3D Slicer and for OHIF."""

import gzip
import json
import re

import nibabel as nib
import numpy as np
import pytest
import tiny
from service import Service, assert_problem

MODEL = "liver-and-lesions"


def as_slicer(service: Service, path: str, fields: dict[str, str], files: dict[str, bytes]):
    """POST as Slicer's plug-in writes it: its own boundary, bare field parts, each file with a content type."""
    boundary = b"----------lImIt_of_THE_fIle_eW_$"
    lines = []
    for name, value in fields.items():
        lines += [b"--" + boundary, f'Content-Disposition: form-data; name="{name}"'.encode(), b"", value.encode()]
    for name, content in files.items():
        disposition = f'Content-Disposition: form-data; name="{name}"; filename="/tmp/slicer/ct.nii.gz"'
        lines += [b"--" + boundary, disposition.encode(), b"Content-Type: application/octet-stream", b"", content]
    body = b"\r\n".join([*lines, b"--" + boundary + b"--", b"", b""])
    kind = f"multipart/form-data; boundary={boundary.decode()}"
    return service.client.post(path, content=body, headers={"content-type": kind})


def parts_of(response) -> dict[str, tuple[str, bytes]]:
    """The parts of a multipart answer by name: (the head of the part, its content)."""
    boundary = re.search(r"boundary=([^;]+)", response.headers["content-type"]).group(1).encode()
    found = {}
    for part in response.content.split(b"--" + boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        found[re.search(rb' name="(\w+)"', head).group(1).decode()] = (head.decode(), content[:-2])
    return found


def read_nrrd(content: bytes) -> tuple[dict[str, str], np.ndarray]:
    head, _, data = content.partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in head.decode().splitlines()[1:])
    data = gzip.decompress(data) if fields["encoding"] == "gzip" else data
    dtype = {"unsigned char": "u1", "unsigned short": "<u2"}[fields["type"]]
    return fields, np.frombuffer(data, dtype).reshape([int(n) for n in fields["sizes"].split()], order="F")


def truth(tmp_path) -> np.ndarray:
    voxels = np.asarray(nib.load(tiny.save_scan(tmp_path / "ct.nii.gz")).dataobj)
    return np.select([voxels == tiny.LIVER_HU, voxels == tiny.LESION_HU], [1, 2], 0)


def test_slicer_reads_what_there_is(service: Service):
    assert service.client.get("/auth/").json() == {"enabled": False}
    said = service.client.get("/info/").json()
    assert not said.get("config"), "Slicer's plug-in takes a server that sends one for too old"
    assert said["labels"][0] == "background", "OHIF's plug-in drops the first"
    model = said["models"][MODEL]
    assert (model["type"], model["dimension"]) == ("segmentation", 3)
    assert sorted(model["labels"], key=model["labels"].get) == ["liver", "lesion"]
    assert "Research use only" in model["description"]
    assert {key: type(said[key]) for key in ("trainers", "strategies", "datastore")} == dict.fromkeys(
        ("trainers", "strategies", "datastore"), dict
    )


def test_slicer_sends_a_volume_and_gets_its_labels(service: Service, scan, tmp_path):
    sent = {"files": ("Doe^John.nii.gz", scan)}
    session = service.client.put("/session/", files=sent, data={"client_id": "user-xyz"})
    assert session.status_code == 200, session.text
    session_id = session.json()["session_id"]
    assert service.client.get(f"/session/{session_id}").status_code == 200
    params = {"result_extension": ".nrrd", "result_dtype": "uint8", "client_id": "user-xyz"}
    path = f"/infer/{MODEL}?image=Doe&session_id={session_id}"
    answer = as_slicer(service, path, {"params": json.dumps(params)}, {})
    assert answer.status_code == 200, answer.text
    parts = parts_of(answer)
    assert json.loads(parts["params"][1])["label_names"] == {"liver": 1, "lesion": 2}
    name = re.search(r'filename="(.+)"', parts["image"][0]).group(1)
    assert name.endswith(".nrrd")
    fields, labels = read_nrrd(parts["image"][1])
    assert np.array_equal(labels, truth(tmp_path))
    assert fields["space"] == "left-posterior-superior"
    lps = np.diag([-1, -1, 1, 1]) @ tiny.affine()
    vectors = [[float(x) for x in each.split(",")] for each in re.findall(r"\(([^)]*)\)", fields["space directions"])]
    assert np.allclose(np.array(vectors).T, lps[:3, :3])
    assert np.allclose([float(x) for x in fields["space origin"].strip("()").split(",")], lps[:3, 3])
    assert "Doe" not in answer.text
    assert service.client.delete(f"/session/{session_id}").status_code == 200
    assert_problem(service.client.get(f"/session/{session_id}"), 410, "gone")
    assert service.bytes_on_disk() == []


def test_an_image_may_come_with_the_question(service: Service, scan, tmp_path):
    answer = as_slicer(service, f"/infer/{MODEL}?image=", {"params": "{}"}, {"file": scan})
    assert answer.status_code == 200, answer.text
    head, content = parts_of(answer)["image"]
    assert ".nii.gz" in head
    (tmp_path / "labels.nii.gz").write_bytes(content)
    stored = nib.load(tmp_path / "labels.nii.gz")
    assert np.array_equal(stored.affine, tiny.affine())
    assert np.array_equal(np.asarray(stored.dataobj), truth(tmp_path))


def test_ohif_finds_its_parts_in_the_answer(service: Service, scan, tmp_path):
    job = service.ended(service.send(scan).json())
    params = {
        "result_extension": ".nrrd",
        "result_dtype": "uint16",
        "result_compress": False,
        "restore_label_idx": False,
    }
    accepted = {"accept": "application/json, multipart/form-data"}
    form = {"params": (None, json.dumps(params))}
    answer = service.client.post(f"/infer/{MODEL}?image={job['id']}&output=all", files=form, headers=accepted)
    assert answer.status_code == 200, answer.text
    # It decodes the whole answer as text and looks for these lines: nothing may be beyond ASCII.
    boundary = re.search(r"boundary=([^;]+)", answer.headers["content-type"]).group(1)
    parts = answer.content.decode("ascii").split(f"--{boundary}")
    told = next(part for part in parts if "Content-Type: application/json" in part)
    centroids = json.loads(told[told.index("{") : told.rindex("}") + 1])["centroids"]
    binary = next(part for part in parts if "Content-Type: application/octet-stream" in part).split("\r\n\r\n")[1]
    fields, labels = read_nrrd(binary[: binary.rindex("\r\n")].encode())
    assert fields["encoding"] == "raw"
    expected = truth(tmp_path)
    assert np.array_equal(labels, expected)
    for name, number in (("liver", 1), ("lesion", 2)):
        middle = np.argwhere(expected == number).mean(axis=0)
        assert centroids[name][0] == number
        assert np.abs(np.array(centroids[name][1:]) - middle).max() <= 0.5


def test_only_the_words_or_only_the_image_may_be_asked_for(service: Service, scan):
    job = service.ended(service.send(scan).json())
    path = f"/infer/{MODEL}?image={job['id']}&output="
    form = {"params": (None, "{}")}
    assert service.client.post(path + "json", files=form).json()["label_names"] == {"liver": 1, "lesion": 2}
    image = service.client.post(path + "image", files=form)
    assert image.content == service.client.get(job["links"]["labels"]).content


def test_what_cannot_be_done_is_a_problem_with_a_reason(service: Service, scan):
    form = {"params": (None, "{}")}
    post = service.client.post
    assert_problem(post(f"/infer/{MODEL}?image=1.2.840.99", files=form), 404, "not_found")
    assert_problem(post("/infer/spleen?image=x", files=form), 404, "not_found")
    assert_problem(service.client.get("/session/nothing"), 404, "not_found")
    assert_problem(service.client.put("/session/", files={"other": ("x", scan)}), 400, "malformed_request")
    photo = {"files": ("x.nii.gz", b"\xff\xd8\xff\xe0 a photograph")}
    assert_problem(service.client.put("/session/", files=photo), 415, "unsupported_format")
    broken = {"params": (None, "{")}
    assert_problem(post(f"/infer/{MODEL}?image=x", files=broken), 422, "invalid_request")
    assert service.bytes_on_disk() == []


def test_a_failed_job_is_answered_with_its_reason(idle: Service, scan):
    from app.errors import NoLiver

    def fail(work, tell):
        raise NoLiver("No liver was found in this scan.")

    idle.start_worker(fail)
    assert_problem(as_slicer(idle, f"/infer/{MODEL}?image=", {"params": "{}"}, {"file": scan}), 422, "no_liver")


def test_a_length_must_be_announced(service: Service):
    def chunks():
        yield b"--x\r\n"

    kind = {"content-type": "multipart/form-data; boundary=x"}
    answer = service.client.post(f"/infer/{MODEL}", content=chunks(), headers=kind)
    assert_problem(answer, 400, "malformed_request")


@pytest.mark.parametrize("path", ["/auth/", "/info/"])
def test_the_schema_does_not_promise_another_projects_interface(service: Service, path):
    assert path not in service.client.get("/openapi.json").json()["paths"]
