"""Sign-in page, and signing out."""

from urllib.parse import unquote

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from review.site.access import SIGN_IN, SIGN_OUT, Access, get_local_path
from review.site.pages.rendering import render_page
from review.site.passwords import ThrottledError

router = APIRouter()


@router.get(SIGN_IN)
def show_sign_in(request: Request) -> Response:
    """Show the sign-in form; redirect to the requested page if no sign-in is needed, or the visitor is signed in."""
    access: Access = request.state.access
    target = get_local_path(request.query_params.get("next"))
    if not request.state.is_own:
        target = _drop_work(target)
    if access.settings.users is None or request.state.visitor is not None:
        return RedirectResponse(target, 303)
    return render_page(request, "sign_in", title="Sign in", next=target, name="", error=None)


@router.post(SIGN_IN)
async def sign_in(request: Request) -> Response:
    """Check the password, and start a session with a new token instead of any that the browser has."""
    access: Access = request.state.access
    form = request.state.form
    name, target = form.get("name", ""), get_local_path(form.get("next"))
    status, message, headers = 401, "The name or the password is wrong.", {}
    try:
        user = await access.check_password(name, form.get("password", ""), request.state.client)
    except ThrottledError as error:
        user, status, message, headers = None, 429, str(error), {"Retry-After": str(error.seconds)}
    if user is None:
        page = render_page(request, "sign_in", status, title="Sign in", next=target, name=name, error=message)
        page.headers.update(headers)
        return page
    access.sessions.end(request.cookies.get(access.session_cookie, ""))
    token = access.sessions.start(user.name, user.password.key)
    return RedirectResponse(target, 303, {"Set-Cookie": access.format_session_cookie(token)})


@router.post(SIGN_OUT)
def sign_out(request: Request) -> Response:
    """End the session, and clear the browser's cache of the site."""
    access: Access = request.state.access
    access.sessions.end(request.cookies.get(access.session_cookie, ""))
    headers = {"Set-Cookie": access.format_session_cookie(None), "Clear-Site-Data": '"cache"'}
    return RedirectResponse(SIGN_IN, 303, headers)


def _drop_work(target: str) -> str:
    """Return a path of the site without its query; the overview for a report.

    After the sign-in, the browser requests it as a page of this site: neither a query nor a download that another site
    asked for may start then.
    """
    path = target.partition("?")[0]
    return path if "/report." not in unquote(path) else "/"
