"""The page of the service: hear and see what an attack does to speech, and what purifying gives.

A clip is attacked and purified in a worker (`showing`, `hearing`), drawn (`pictures`, `words`) and
laid out with Gradio (`layout`), behind doors that are closed but for what the page needs (`doors`,
`build`).
"""

from servax.service.page.build import mount_page
from servax.service.page.settings import PageLimits

__all__ = ["PageLimits", "mount_page"]
