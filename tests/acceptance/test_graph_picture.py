"""The picture of the graph in the documentation is that of the compiled graph."""

from __future__ import annotations

from pathlib import Path

from scripted_parts import Parts

from rttc_graph import create_rttc_graph

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
BEGIN, END = "<!-- graph:begin -->", "<!-- graph:end -->"


def test_the_architecture_page_shows_the_graph_as_it_is() -> None:
    drawn = create_rttc_graph(**Parts().parts()).get_graph().draw_mermaid().strip()
    wanted = f"{BEGIN}\n```mermaid\n{drawn}\n```\n{END}"

    text = PAGE.read_text(encoding="utf-8")

    shown = BEGIN + text.partition(BEGIN)[2].partition(END)[0] + END
    assert shown == wanted, f"put this into {PAGE.name}:\n{wanted}"
