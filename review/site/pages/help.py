"""Help page: how to read the site, its terms and keys."""

from fastapi import APIRouter, Request, Response

from review.presentation.glossary import reader_terms
from review.site.pages.rendering import render_page

router = APIRouter()


@router.get("/help")
def show_help(request: Request) -> Response:
    """Show the help page."""
    return render_page(request, "help", title="Help", terms=reader_terms())
