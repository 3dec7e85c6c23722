"""The page of the service: hear and see what an attack does to speech, and what purifying gives.

A clip is attacked and purified in a worker (`demonstration`), drawn and told in words (`drawing`),
and laid out with Gradio (`layout`), of which only what the page needs can be reached (`mounting`).
"""

from servax.service.page.mounting import mount_page
from servax.service.settings import PageLimits

__all__ = ["PageLimits", "mount_page"]
