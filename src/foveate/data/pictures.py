"""Opens a picture file as upright RGB; the code is in `foreground`, because masks use the same pixels."""

from foveate.foreground.opening import BadPicture as BadPicture
from foveate.foreground.pictures import measure as measure
from foveate.foreground.pictures import open_picture as open_picture
from foveate.foreground.pictures import open_with_orientation as open_with_orientation
