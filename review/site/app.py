"""The review site: a FastAPI application made of the routers in `review.site.pages`."""

from pathlib import Path
from typing import Final

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

import sql
from review.report.html import ReportError
from review.site.access import Access, RefusedError
from review.site.guard import Guard
from review.site.lake_cache import LakeCache, UnknownError
from review.site.pages import alerts, compare, decisions, downloads, overview, pairs, pictures, runs, sign_in, sql_page
from review.site.pages.rendering import BadFilterError, render_page
from review.site.reads import ReadsLog, get_folder
from review.site.settings import ReviewSettings
from stores import Root

STATIC: Final = Path(__file__).parent.parent / "static"
_PAGES: Final = (sign_in, decisions, overview, alerts, runs, pairs, pictures, compare, sql_page, downloads)
_PROBLEMS: Final[dict[type[Exception], tuple[int, str]]] = {
    UnknownError: (404, "Not found"),
    BadFilterError: (400, "Invalid filter"),
    sql.LakeError: (503, "The lake cannot be read"),
    OSError: (503, "A file cannot be read or written"),
    ReportError: (503, "The report cannot be written"),
}


def create_app(lake: Root, settings: ReviewSettings | None = None) -> FastAPI:
    """Create the site for a lake. Raises AccessError, UsersError, ReadsError.

    `review.site.guard` checks every request before a page sees it.
    """
    app = FastAPI(title="m2ib-audit review", docs_url=None, redoc_url=None, openapi_url=None)
    app.router.redirect_slashes = False  # the redirect would name the scheme of this server, not that of the proxy
    app.state.settings = settings or ReviewSettings()
    app.state.lake_cache = LakeCache(lake, app.state.settings.remote_corpora)
    app.state.access = access = Access(app.state.settings)
    reads = ReadsLog(app.state.settings.reads or get_folder(lake), lake) if access.has_sign_in else None
    app.add_middleware(Guard, access=access, reads=reads)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    for page in _PAGES:
        app.include_router(page.router, dependencies=[Depends(_check_ids)])
    app.add_exception_handler(HTTPException, _show_problem)
    app.add_exception_handler(RequestValidationError, _show_problem)
    app.add_exception_handler(RefusedError, _show_problem)
    for error in _PROBLEMS:
        app.add_exception_handler(error, _show_problem)
    return app


def _check_ids(request: Request) -> None:
    """Raise UnknownError if an id in the path of a URL is no id. Its value could reach a header or a message."""
    for name in ("run_id", "alert_id", "pair_id"):
        if not sql.is_id(request.path_params.get(name, "x")):
            raise UnknownError("This page does not exist.")


async def _show_problem(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):  # the URL has a text where a page expects a number
        error = HTTPException(404)
    if isinstance(error, RefusedError):
        status, title, message = error.status, error.title, error.message
    elif isinstance(error, HTTPException):  # raised by Starlette, for an unknown path or method
        status, title, message = error.status_code, error.detail.capitalize(), "This page does not exist."
    else:
        status, title = next(_PROBLEMS[kind] for kind in type(error).__mro__ if kind in _PROBLEMS)
        message = str(error)
    return render_page(request, "problem", status, title=title, message=message)
