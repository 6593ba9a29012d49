"""C2PA: signatures that verify, what they say, changes that they betray, and files that cannot sign."""

from __future__ import annotations

import datetime
import importlib.util
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganlib.inference.images import Facts, add_png, png, read_facts, unsigned, write_png
from ganlib.inference.signing import SOURCE_TYPE, Signer, asked_signer, open_signer, verify
from ganlib.problems import Failed, Refused

c2pa = pytest.importorskip("c2pa")
x509 = pytest.importorskip("cryptography.x509")
hashes = pytest.importorskip("cryptography.hazmat.primitives.hashes")
serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa  # noqa: E402

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
FACTS = Facts(
    model="flowers-text", model_sha256="0123456789abcdef" * 4, prompt="красная роза", seed=7, truncation=0.7,
    size=32, version="0.1.0",
)  # fmt: skip
PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
EMAIL = x509.oid.ExtendedKeyUsageOID.EMAIL_PROTECTION
NOW = datetime.datetime.now(datetime.UTC)


def written_key(path: Path, key: Any, form: Any = PKCS8, encryption: Any = None) -> Path:
    path.write_bytes(key.private_bytes(PEM, form, encryption or serialization.NoEncryption()))
    return path


def certified(key: Any, usage: Any = EMAIL, days: int = 30) -> bytes:
    """A chain of two in PEM: a certificate of the key by C2PA's profile, and its issuer's."""
    issuer = ec.generate_private_key(ec.SECP256R1())

    def name(common: str) -> Any:
        attributes = ((x509.NameOID.ORGANIZATION_NAME, "A test"), (x509.NameOID.COMMON_NAME, common))
        return x509.Name([x509.NameAttribute(kind, text) for kind, text in attributes])

    def certificate(subject: str, public: Any, authority: bool) -> Any:
        usages = [False] * 9
        for place in (5, 6) if authority else (0,):  # certificates and revocations, or signatures
            usages[place] = True
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("Issuer"))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - datetime.timedelta(days=60))
            .not_valid_after(NOW + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(x509.KeyUsage(*usages), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)
        )
        if not authority:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return builder.sign(issuer, hashes.SHA256())

    chain = (certificate("Signer", key.public_key(), False), certificate("Issuer", issuer.public_key(), True))
    return b"".join(each.public_bytes(PEM) for each in chain)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A chain and its key."""
    folder, key = tmp_path_factory.mktemp("signer"), ec.generate_private_key(ec.SECP256R1())
    (folder / "chain.pem").write_bytes(certified(key))
    return folder / "chain.pem", written_key(folder / "key.pem", key)


@pytest.fixture(scope="module")
def signer(files: tuple[Path, Path]) -> Signer:
    return open_signer(*files)


def report(content: bytes) -> dict[str, Any]:
    """What c2pa itself reads in a file."""
    with c2pa.Reader("image/png", io.BytesIO(content)) as reader:
        return {"state": reader.get_validation_state(), **json.loads(reader.json())}


def test_a_signed_file_says_what_made_it(signer: Signer) -> None:
    content = png(PIXELS, FACTS)
    signed = signer.sign(content, FACTS)
    found = report(signed)
    assert found["state"] == "Valid"
    manifest = found["manifests"][found["active_manifest"]]
    assertions = {assertion["label"]: assertion["data"] for assertion in manifest["assertions"]}
    (action,) = assertions["c2pa.actions.v2"]["actions"]
    assert action["action"] == "c2pa.created"
    assert action["digitalSourceType"] == SOURCE_TYPE
    assert SOURCE_TYPE.endswith("/trainedAlgorithmicMedia")
    assert action["softwareAgent"] == {"name": "ganlib", "version": "0.1.0"}
    assert Facts.model_validate_json(json.dumps(assertions["org.ganlib.facts"])) == FACTS
    assert manifest["claim_generator_info"][0]["name"] == "ganlib"
    assert manifest["signature_info"]["alg"] == "Es256"
    assert "thumbnail" not in manifest
    assert len(signed) - len(content) < 5_000
    assert "time" not in manifest["signature_info"]  # nobody was asked for it


def test_pixels_and_texts_are_kept(signer: Signer, tmp_path: Path) -> None:
    path = write_png(tmp_path / "image.png", PIXELS, FACTS, signer.sign)
    assert read_facts(path) == FACTS
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), PIXELS)
        assert image.text["parameters"].startswith("красная роза\nSteps: 1")  # type: ignore[attr-defined]
    assert unsigned(path.read_bytes()) == png(PIXELS, FACTS)
    before = path.read_bytes()
    assert add_png(tmp_path, "image", PIXELS, FACTS, signer.sign) == path
    assert path.read_bytes() == before


def test_every_change_is_found_out(signer: Signer) -> None:
    signed = signer.sign(png(PIXELS, FACTS), FACTS)
    assert verify(signed) == ()
    for chunk, offset in ((b"IDAT", 20), (b"iTXt", 12)):  # a pixel, a text
        changed = bytearray(signed)
        changed[changed.index(chunk) + offset] ^= 1
        assert "assertion.dataHash.mismatch" in verify(bytes(changed)), chunk
        assert report(bytes(changed))["state"] == "Invalid"
    said = signed.index(b"0123456789abcdef", signed.index(b"org.ganlib.facts"))
    changed = bytearray(signed)
    changed[said] ^= 1
    assert "assertion.hashedURI.mismatch" in verify(bytes(changed))
    with pytest.raises(Refused, match=r"^sign: no readable manifest: [^\n]*$"):
        verify(png(PIXELS, FACTS))


def test_threads_share_a_signer(signer: Signer) -> None:
    contents = [(png(PIXELS, facts), facts) for facts in (FACTS.model_copy(update={"seed": i}) for i in range(24))]
    with ThreadPoolExecutor(4) as pool:
        signed = list(pool.map(lambda each: signer.sign(*each), contents))
    assert all(verify(content) == () for content in signed)
    assert [unsigned(content) for content in signed] == [content for content, _ in contents]
    titles = [(found := report(content))["manifests"][found["active_manifest"]]["title"] for content in signed[:3]]
    assert titles == ["flowers-text-0.png", "flowers-text-1.png", "flowers-text-2.png"]


@pytest.mark.parametrize(
    ("make", "form", "algorithm"),
    [
        (lambda: ec.generate_private_key(ec.SECP384R1()), serialization.PrivateFormat.TraditionalOpenSSL, b"es384"),
        (lambda: ec.generate_private_key(ec.SECP521R1()), PKCS8, b"es512"),
        (lambda: ed25519.Ed25519PrivateKey.generate(), PKCS8, b"ed25519"),
        (lambda: rsa.generate_private_key(65537, 2048), serialization.PrivateFormat.TraditionalOpenSSL, b"ps256"),
    ],
)
def test_keys_of_every_kind_sign(tmp_path: Path, make: Callable[[], Any], form: Any, algorithm: bytes) -> None:
    key = make()
    (tmp_path / "chain.pem").write_bytes(certified(key))
    signer = open_signer(tmp_path / "chain.pem", written_key(tmp_path / "key.pem", key, form))
    assert signer.algorithm == algorithm
    assert verify(signer.sign(png(PIXELS, FACTS), FACTS)) == ()


def test_files_that_cannot_sign_are_refused_before_anything_is_made(files: tuple[Path, Path], tmp_path: Path) -> None:
    chain, key_file = files
    key = ec.generate_private_key(ec.SECP256R1())
    other = written_key(tmp_path / "other.pem", key)
    locked = written_key(tmp_path / "locked.pem", key, encryption=serialization.BestAvailableEncryption(b"secret"))
    strange = written_key(tmp_path / "strange.pem", dsa.generate_private_key(1024))
    (tmp_path / "expired.pem").write_bytes(certified(key, days=-30))
    (tmp_path / "useless.pem").write_bytes(certified(key, usage=x509.oid.ExtendedKeyUsageOID.SERVER_AUTH))
    (tmp_path / "text.pem").write_text("hello")
    for certificate, private, line in (
        (tmp_path / "none.pem", key_file, r"^sign-certificate: .*none\.pem: No such file or directory$"),
        (chain, tmp_path / "none.pem", r"^sign-key: .*none\.pem: No such file or directory$"),
        (chain, tmp_path / "text.pem", r"^sign-key: .*text\.pem: not a private key in PEM$"),
        (chain, locked, r"^sign-key: .*locked\.pem: needs a password; write it without one$"),
        (chain, strange, r"^sign-key: .*strange\.pem: C2PA has no signatures of such a key; take P-256"),
        (tmp_path / "text.pem", key_file, r"^sign-certificate: .*text\.pem with .*key\.pem: [^\n]+$"),
        (chain, other, r"^sign-certificate: .*chain\.pem with .*other\.pem: .*signature does not match[^\n]*$"),
        (tmp_path / "expired.pem", other, r"^sign-certificate: .*expired\.pem[^\n]*$"),
        (tmp_path / "useless.pem", other, r"^sign-certificate: .*useless\.pem[^\n]*$"),
    ):
        with pytest.raises(Refused, match=line):
            open_signer(certificate, private)


def test_the_time_is_asked_for_only_where_a_url_is_named(files: tuple[Path, Path]) -> None:
    nobody = "http://127.0.0.1:9"  # the port that discards; nothing listens
    signer = open_signer(*files, nobody)  # tried without
    with pytest.raises(Failed, match=r"^sign: [^\n]+$"):
        signer.sign(png(PIXELS, FACTS), FACTS)
    with pytest.raises(Refused, match="timestamp-url: found 'ftp://x'; expected a URL of http or https"):
        open_signer(*files, "ftp://x")


def test_options_that_name_half_a_signer_are_refused(files: tuple[Path, Path]) -> None:
    assert asked_signer(None, None, None) is None
    assert isinstance(asked_signer(*files, None), Signer)
    with pytest.raises(Refused, match="sign-key: missing; a signature needs the certificate and its key"):
        asked_signer(files[0], None, None)
    with pytest.raises(Refused, match="sign-certificate: missing"):
        asked_signer(None, files[1], None)
    with pytest.raises(Refused, match="timestamp-url: stamps a signature"):
        asked_signer(None, None, "http://127.0.0.1:9")


def test_a_missing_extra_names_its_command(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Refused, match=r"^sign: c2pa is not installed; `pip install 'ganlib\[sign\]'`$"):
        open_signer(*files)
