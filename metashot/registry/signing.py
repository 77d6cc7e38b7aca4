"""Signatures of versions: an in-toto statement over lineage, code and files, in a DSSE envelope.

Optional. Signatures lie in git, ``signatures/<model>/<result>-<code>.json``, and so do the public keys that
are trusted, ``signers/<name>.pem``: an emptied MLflow loses none.

Sources: in-toto Attestation Framework v1 (statement), DSSE v1.0 (envelope).
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metashot import untrusted
from metashot.errors import MetashotError
from metashot.files import replacing
from metashot.lineage.document import Document
from metashot.registry.carried import MLMODEL

SIGNATURES, SIGNERS = Path("signatures"), Path("signers")
NAME, RESULT = re.compile(r"\w+-\w+", re.ASCII), re.compile("[0-9a-f]{64}")  # of a lineage
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:metashot:lineage:1"


def path(root: Path, document: Document, code: str) -> Path:
    """Return the path of the signature of a result with this code, whether or not it exists.

    Raises:
        MetashotError: The lineage has no name or result that a file may be called by.
    """
    name, result = document.name, document.result
    if not NAME.fullmatch(name) or not RESULT.fullmatch(result) or not RESULT.fullmatch(code):
        raise MetashotError(
            f"a lineage of {name[:80]!r} with the result {result[:80]!r} and the code {code[:80]!r} is not "
            "one that metashot writes: `metashot audit` says what else is wrong"
        )
    return root / SIGNATURES / name / f"{result}-{code}.json"


def statement(document: Document, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the in-toto statement: its subjects are weights, files and lineage, its predicate the lineage.

    Args:
        document: The lineage.
        files: The files of the registered model but for the weights, by name. MLmodel, which holds MLflow's
            ids, is left out: a signature outlives a database.
    """
    subjects = [{"name": name, "digest": {"md5": md5}} for name, md5 in sorted(document.model.items())]
    subjects += [
        {"name": name, "digest": {"sha256": hashlib.sha256(content).hexdigest()}}
        for name, content in sorted(files.items())
        if name != MLMODEL
    ]
    subjects.append({"name": document.name, "digest": {"sha256": document.digest}})
    return {
        "_type": STATEMENT_TYPE,
        "subject": subjects,
        "predicateType": PREDICATE_TYPE,
        "predicate": document.written,
    }


def sign(root: Path, document: Document, code: str, files: Mapping[str, bytes], key: Path) -> Path:
    """Sign a version, and return the file to commit.

    Args:
        root: The repository.
        document: The lineage.
        code: Digest of the code that the version carries.
        files: As `statement`.
        key: A private key without password, PEM: Ed25519, ECDSA or RSA.

    Raises:
        MetashotError: The key cannot be read.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner

    try:
        signer = CryptoSigner(load_pem_private_key(key.read_bytes(), password=None))
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MetashotError(
            f"{key}: no private key that can be read ({' '.join(str(error).split())}): "
            "`openssl genpkey -algorithm ed25519 -out KEY` makes one"
        ) from None
    payload = json.dumps(statement(document, files), sort_keys=True).encode()
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(signer)
    with replacing(path(root, document, code)) as partial:
        partial.write_text(json.dumps(envelope.to_dict(), indent=1) + "\n")
    return path(root, document, code)


def verify(file: Path, document: Document, files: Mapping[str, bytes], signers: Path) -> str:
    """Return the name of the signer of a version: that of the public key's file.

    Args:
        file: The signature.
        document: The lineage that it has to be over.
        files: The files that it has to be over, as `statement`.
        signers: Folder of the public keys that are trusted.

    Raises:
        MetashotError: It is not a signature, by none of the keys, or over another lineage.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError
    from securesystemslib.signer import SSlibKey

    keys = {}
    for pem in sorted(signers.glob("*.pem")):
        try:
            key = SSlibKey.from_crypto(load_pem_public_key(pem.read_bytes()))
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            reason = " ".join(str(error).split())
            raise MetashotError(f"{pem}: no public key that can be read ({reason})") from None
        keys[key.keyid] = key, pem.stem
    if not keys:
        raise MetashotError(f"{file.name} is signed, but {signers} holds no public key (*.pem) to verify it")
    try:
        held = untrusted.read(file.parent, file.name, 2 * untrusted.DOCUMENT)
        envelope = Envelope.from_dict(untrusted.parsed(held, str(file)))
        accepted = envelope.verify([key for key, _ in keys.values()], threshold=1)
        signed = untrusted.parsed(envelope.payload, str(file))
    except VerificationError:
        raise MetashotError(f"{file}: not signed by a key in {signers}, or changed since") from None
    except (OSError, AttributeError, ValueError, KeyError, TypeError) as error:
        raise MetashotError(f"{file}: no signature ({type(error).__name__})") from None
    if envelope.payload_type != PAYLOAD_TYPE or signed != json.loads(json.dumps(statement(document, files))):
        raise MetashotError(
            f"{file}: signed by {_names(accepted, keys)}, but over another lineage or other files"
        )
    return _names(accepted, keys)


def _names(accepted: Mapping[str, Any], keys: Mapping[str, tuple[Any, str]]) -> str:
    return ", ".join(keys[keyid][1] for keyid in accepted)
