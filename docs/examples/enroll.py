"""Enrolls a device from Python, with nothing but the proto files and what `sealwright dev` writes.

    pip install grpcio grpcio-tools
    sealwright dev --dir my-ca &
    python docs/examples/enroll.py my-ca SN-4711
"""
import json, pathlib, subprocess, sys, tempfile, uuid
import grpc
from grpc_tools import protoc

ca, serial = pathlib.Path(sys.argv[1]), sys.argv[2]
proto = pathlib.Path(__file__).resolve().parents[2] / "proto"
generated = tempfile.mkdtemp()
files = [str(f) for f in (proto / "sealwright/v1").glob("*.proto")]
well_known = str(pathlib.Path(protoc.__file__).parent / "_proto")
options = [f"-I{proto}", f"-I{well_known}", f"--python_out={generated}", f"--grpc_python_out={generated}"]
assert protoc.main(["protoc", *options, *files]) == 0
sys.path.insert(0, generated)
from sealwright.v1 import common_pb2, enrollment_pb2, enrollment_pb2_grpc

# The station's credential and the root to trust.
dev = json.loads((ca / "dev.json").read_text())
read = lambda name: (ca / name).read_bytes()
station = dev["station"]
credentials = grpc.ssl_channel_credentials(read(dev["trust_bundle"]), read(station["key"]), read(station["cert"]))

# The device makes its key, and a PKCS#10 request for it.
request = ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
request += ["-keyout", f"{serial}.key", "-subj", f"/CN={serial}"]
csr = subprocess.run(request, check=True, capture_output=True).stdout

with grpc.secure_channel(dev["grpc"].removeprefix("https://"), credentials) as channel:
    enrollment = enrollment_pb2_grpc.EnrollmentServiceStub(channel)
    answer = enrollment.Enroll(
        enrollment_pb2.EnrollRequest(
            idempotency_key=str(uuid.uuid4()),
            csr=csr,
            device=common_pb2.DeviceIdentity(manufacturer="Example", model="Gateway 7", serial_number=serial),
        )
    )
pathlib.Path(f"{serial}.pem").write_text(answer.pem)
print(f"{answer.certificate.subject}: serial number {answer.certificate.ref.serial_number}, in {serial}.pem")
