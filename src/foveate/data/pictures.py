"""Any picture file to upright RGB; it lives below, because masks are made from the same pixels."""

from foveate.foreground.opening import BadPicture as BadPicture
from foveate.foreground.pictures import measure as measure
from foveate.foreground.pictures import open_picture as open_picture
from foveate.foreground.pictures import open_with_orientation as open_with_orientation
