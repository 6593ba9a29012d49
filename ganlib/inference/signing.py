"""C2PA manifests: PNG files that say, signed, that a generator made them, which one, and from what.

A manifest (C2PA specification 2.2) holds the action `c2pa.created` with the digital source type
`trainedAlgorithmicMedia`, ganlib as the software agent, and the image's facts as an assertion of our own. A changed
byte of the file is found out by who verifies it. Whether the signer is trusted is decided by the verifier's list.
"""

from __future__ import annotations

import importlib.util
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ganlib.inference.images import Facts, png
from ganlib.problems import Failed, Refused

FACTS_LABEL = "org.ganlib.facts"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_SETTINGS = {  # nothing is fetched from anywhere, and a thumbnail would be larger than the image
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": True},
}
_UNTRUSTED = "signingCredential.untrusted"  # of a certificate that no list of ours has, for we have none
_CURVES = {"secp256r1": b"es256", "secp384r1": b"es384", "secp521r1": b"es512"}


@dataclass(frozen=True)
class Signer:
    """Signs images with a certificate. Every call has objects of its own, so several threads or processes may use one.

    Attributes:
        chain: PEM, the signer's certificate first, then those of its issuers.
        key: PEM, PKCS#8, the signer's private key.
        algorithm: of the signature: es256, es384, es512, ed25519 or ps256.
        timestamp_url: of a time-stamping authority (RFC 3161) that is asked for every image, or None: the signature is
            then valid as long as the certificate, and no network is used.
    """

    chain: bytes
    key: bytes
    algorithm: bytes
    timestamp_url: str | None = None

    def sign(self, content: bytes, facts: Facts) -> bytes:
        """A PNG file's content with a manifest inside, pixels and texts kept. Two signatures of one image differ.

        Raises:
            Failed: where it cannot be signed, for example because the time-stamping authority does not answer.
        """
        import c2pa  # type: ignore[import-untyped]

        info = c2pa.C2paSignerInfo(
            self.algorithm, self.chain, self.key, self.timestamp_url.encode() if self.timestamp_url else None
        )
        signed = io.BytesIO()
        try:
            with (
                c2pa.Context.from_dict(_SETTINGS) as context,
                c2pa.Signer.from_info(info) as signer,
                c2pa.Builder(json.dumps(manifest(facts)), context=context) as builder,
            ):
                builder.sign(signer, "image/png", io.BytesIO(content), signed)
        except c2pa.C2paError as error:
            raise Failed(f"sign: {' '.join(str(error).split())}") from error
        return signed.getvalue()


def open_signer(certificate: Path, key: Path, timestamp_url: str | None = None) -> Signer:
    """The signer of two PEM files, proved by a signature that is read back.

    Args:
        certificate: the signer's certificate, then its issuers'. C2PA wants a leaf with the key usage digitalSignature
            and the extended key usage emailProtection or documentSigning.
        key: its private key, without a password.
        timestamp_url: see `Signer`; it is not asked yet.

    Raises:
        Refused: where c2pa is not installed, or the files cannot be used for signatures that verify.
    """
    if importlib.util.find_spec("c2pa") is None:
        raise Refused("sign: c2pa is not installed; `pip install 'ganlib[sign]'`")
    if timestamp_url is not None and not timestamp_url.startswith(("http://", "https://")):
        raise Refused(f"timestamp-url: found {timestamp_url!r}; expected a URL of http or https")
    algorithm, private = _private_key(key)
    chain = _read("sign-certificate", certificate)
    trial = Facts(model="trial", model_sha256="0" * 64, seed=0, truncation=1.0, size=1, version="0")
    content = png(np.zeros((1, 1, 3), np.uint8), trial)
    try:
        signed = Signer(chain, private, algorithm).sign(content, trial)
    except Failed as error:
        raise Refused(f"sign-certificate: {certificate} with {key}: {str(error).removeprefix('sign: ')}") from error
    if problems := verify(signed):
        raise Refused(f"sign-certificate: {certificate}: a signature with it does not verify: {', '.join(problems)}")
    return Signer(chain, private, algorithm, timestamp_url)


def asked_signer(certificate: Path | None, key: Path | None, timestamp_url: str | None) -> Signer | None:
    """The signer that a command's options name, or None where they name none; see `open_signer`.

    Raises:
        Refused: where one option is there without the others that it needs, too.
    """
    if certificate is None and key is None:
        if timestamp_url is not None:
            raise Refused("timestamp-url: stamps a signature; name sign-certificate and sign-key, or leave it out")
        return None
    if certificate is None or key is None:
        missing = "sign-certificate" if certificate is None else "sign-key"
        raise Refused(f"{missing}: missing; a signature needs the certificate and its key")
    return open_signer(certificate, key, timestamp_url)


def verify(content: bytes) -> tuple[str, ...]:
    """What is wrong with a PNG file's manifest, in C2PA's status codes; empty where all of it is valid. Whether the
    signer is trusted is not asked.

    Raises:
        Refused: for a file without a manifest.
    """
    import c2pa

    try:
        with (
            c2pa.Context.from_dict(_SETTINGS) as context,
            c2pa.Reader("image/png", io.BytesIO(content), context=context) as reader,
        ):
            results = reader.get_validation_results() or {}
    except c2pa.C2paError as error:
        raise Refused(f"sign: no readable manifest: {' '.join(str(error).split())}") from error
    failures = results.get("activeManifest", {}).get("failure", [])
    return tuple(failure["code"] for failure in failures if failure["code"] != _UNTRUSTED)


def manifest(facts: Facts) -> dict[str, Any]:
    """The manifest's definition as c2pa reads it."""
    agent = {"name": "ganlib", "version": facts.version}
    created = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE, "softwareAgent": agent}
    return {
        "claim_generator_info": [agent],
        "title": f"{facts.model}-{facts.seed}.png",
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": FACTS_LABEL, "data": facts.model_dump(mode="json")},
        ],
    }


def _private_key(path: Path) -> tuple[bytes, bytes]:
    """The algorithm of a key, and the key as PKCS#8."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    content = _read("sign-key", path)
    try:
        key = serialization.load_pem_private_key(content, None)
    except TypeError as error:
        raise Refused(f"sign-key: {path}: needs a password; write it without one") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Refused(f"sign-key: {path}: not a private key in PEM") from error
    algorithm = None
    if isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = _CURVES.get(key.curve.name)
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        algorithm = b"ed25519"
    elif isinstance(key, rsa.RSAPrivateKey):
        algorithm = b"ps256"
    if algorithm is None:
        raise Refused(
            f"sign-key: {path}: C2PA has no signatures of such a key; take P-256, P-384, P-521, Ed25519 or RSA"
        )
    plain = serialization.NoEncryption()
    return algorithm, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def _read(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused(f"{option}: {path}: {error.strerror or error}") from error
