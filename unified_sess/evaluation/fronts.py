"""Fronts of two measures that pull against each other, and how far a point lies outside one.

A weight between two tasks traces a front: more of one measure for less of the other. A method is better than choosing
another weight only where its point lies outside that front.
"""

from typing import NamedTuple

import numpy as np


class FrontDistance(NamedTuple):
    """How far a point lies from a front, and from what the number is made.

    distance : in the measures' unit (dB); positive outside the front, negative inside.
    normal : `[2]`, unit vector from the nearest point of the front outwards.
    weights : `[points]`, the nearest point of the front as a mean of the points that the front was made of.
    """

    distance: float
    normal: np.ndarray
    weights: np.ndarray


def front_of(points: np.ndarray) -> list[int]:
    """Numbers of the points that no other beats in both measures, by rising first measure.

    Arguments
    ---------
    points : numpy.ndarray
        `[points, 2]`, more is better in both.

    Example
    -------
    >>> front_of(np.array([[0.0, 3.0], [1.0, 1.0], [2.0, 2.0]]))
    [0, 2]
    """
    best, found = -np.inf, []
    for k in sorted(range(len(points)), key=lambda k: (-points[k][0], -points[k][1])):
        if points[k][1] > best:
            best = points[k][1]
            found.append(k)
    return found[::-1]


def front_distance(point: np.ndarray, points: np.ndarray) -> FrontDistance:
    """Signed distance of a point to the piecewise-linear front of others.

    The front joins neighbouring points of `front_of` by straight lines; from its ends it goes on level to the left and
    straight down, since a point that is worse in one measure and no better in the other lies inside.

    As normal and weights are those of the nearest point, the distance is `normal @ (point - weights @ points)`; to
    first order it stays so when the points move a little. So the same sum over single mixtures gives the distance its
    interval, paired by mixture.

    Arguments
    ---------
    point : numpy.ndarray
        `[2]`.
    points : numpy.ndarray
        `[points, 2]`, one or more.

    Example
    -------
    >>> round(front_distance(np.array([1.0, 1.0]), np.array([[0.0, 1.0], [1.0, 0.0]])).distance, 3)
    0.707
    """
    front = front_of(points)
    corners = points[front]
    far = 1e6 * (1 + np.abs(points).max() + np.abs(point).max())
    ends = [[-far, corners[0][1]], *corners, [corners[-1][0], -far]]
    found: list[tuple] = []
    for k in range(len(ends) - 1):
        start, along = np.asarray(ends[k], float), np.subtract(ends[k + 1], ends[k])
        share = float(np.clip((point - start) @ along / (along @ along), 0, 1))
        offset = point - (start + share * along)
        length = float(np.hypot(*offset))
        found.append((length, k, share, along, offset))
    length, k, share, along, offset = min(found, key=lambda segment: segment[0])
    outward = np.array([-along[1], along[0]]) / np.hypot(*along)  # the front falls from left to right
    outward = outward if outward.sum() > 0 else -outward
    inside = point[0] <= corners[-1][0] and point[1] <= np.interp(point[0], *corners.T)
    weights = np.zeros(len(points))
    first, last = max(k - 1, 0), min(k, len(front) - 1)  # the corners at the segment's ends
    weights[front[first]] += 1 - share if first != last else 1
    weights[front[last]] += share if first != last else 0
    normal = outward if length == 0 else offset / length * (-1 if inside else 1)
    return FrontDistance(-length if inside else length, normal, weights)
