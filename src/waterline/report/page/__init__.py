"""The page of `waterline report`: `html(content)`."""

from waterline.report.page.content import Content, Picture
from waterline.report.page.page import data, html
from waterline.report.page.profiles import Profile, of_analysis, read

__all__ = ["Content", "Picture", "Profile", "data", "html", "of_analysis", "read"]
