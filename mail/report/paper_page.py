"""The page of a reproduced table: the paper's figures and ours, and where the pictures are."""

import os
from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from mail.data import files


def write_paper_page(
    path: str | os.PathLike,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    galleries: Mapping[str, str],
) -> None:
    """Writes the page.

    Args:
        rows: cells of each line, in the order of `head`.
        galleries: where the pictures of a row are, by its first cell.
    """
    environment = Environment(loader=PackageLoader("mail", "report"), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("paper_table.html.j2").render(
        head=head, rows=rows, notes=notes, galleries=galleries
    )
    files.write_bytes(*files.resolve(path), page.encode())
