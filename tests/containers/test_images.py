"""What is written down for Compose."""

from pathlib import Path

from tests.containers.images import write_environment


def test_an_environment_file_keeps_what_is_not_ours(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("OPENAI_API_KEY=abc\nPRESSROOM_KAFKA_IMAGE=old\n")
    for image in ("new", "newer"):
        write_environment(file, {"PRESSROOM_KAFKA_IMAGE": image})
    assert file.read_text() == "OPENAI_API_KEY=abc\nPRESSROOM_KAFKA_IMAGE=newer\n"
    write_environment(tmp_path / "fresh", {"A": "b"})
    assert (tmp_path / "fresh").read_text() == "A=b\n"
