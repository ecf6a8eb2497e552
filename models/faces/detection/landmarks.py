"""Indices of named points among the 468 points of the mesh. Right and left are the person's own."""

RIGHT_EYE = (33, 133)
"""Outer and inner corner."""
LEFT_EYE = (263, 362)
NOSE = 1
NOSE_BASE = 2
MOUTH_RIGHT = 61
MOUTH_LEFT = 291
CHIN = 152

RIGID = (
    10, 151, 9, 8, 168, 6, 197, 195, 5, 4, 1, 2,  # the midline, from the forehead to the nose
    33, 133, 263, 362,  # corners of the eyes
    127, 356, 234, 454, 93, 323,  # temples and cheeks
    48, 278, 98, 327,  # wings of the nose
    67, 297, 103, 332, 54, 284,  # forehead
)  # fmt: skip
"""Points over bone and cartilage, which facial expressions do not move."""

NAMED: dict[str, tuple[int, ...]] = {
    "right_eye": RIGHT_EYE,
    "left_eye": LEFT_EYE,
    "nose": (NOSE,),
    "mouth_right": (MOUTH_RIGHT,),
    "mouth_left": (MOUTH_LEFT,),
    "chin": (CHIN,),
}
"""The landmarks in API responses, each the mean of these points."""
