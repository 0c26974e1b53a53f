"""The section `follow_up` of a report as it comes: what docs/http.md shows. Of a synthetic liver."""

from __future__ import annotations

from typing import Any

FOLLOW_UP: dict[str, Any] = {
    "prior": {
        "labels_sha256": "4444444444444444444444444444444444444444444444444444444444444444",
        "report_sha256": "5555555555555555555555555555555555555555555555555555555555555555",
        "shape": [145, 110, 76],
        "spacing_mm": [2.0, 2.0, 3.0],
        "orientation": "LPS",
        "lesion_count": 2,
    },
    "comparable": True,
    "obstacle": None,
    "registration": {
        "dice_rigid": 0.943,
        "dice": 0.978,
        "mean_surface_distance_mm": 1.1,
        "mean_elastic_mm": 2.91,
        "tolerance_mm": 10.0,
    },
    "lesions": [
        {
            "prior": [
                {
                    "id": 2,
                    "volume_ml": 2.88,
                    "volume_interval_ml": [2.088, 3.984],
                    "longest_axial_diameter_mm": 18.974,
                    "diameter_interval_mm": [17.045, 21.141],
                    "touches_border": False,
                }
            ],
            "current": [
                {
                    "id": 1,
                    "volume_ml": 13.821,
                    "volume_interval_ml": [10.362, 18.088],
                    "longest_axial_diameter_mm": 32.274,
                    "diameter_interval_mm": [29.319, 35.302],
                    "touches_border": False,
                }
            ],
            "state": "grown",
            "trend": "grown",
            "matched_by": "overlap",
            "distance_mm": 1.614,
            "where_mm": [27.868, 17.394, -22.949],
            "volume_ml": {
                "prior": 2.88,
                "prior_interval": [2.088, 3.984],
                "current": 13.821,
                "current_interval": [10.362, 18.088],
                "change": 10.941,
                "change_interval": [7.31, 15.281],
                "change_percent": 379.896,
                "change_percent_interval": [160.19, 578.309],
            },
        },
        {
            "prior": [],
            "current": [
                {
                    "id": 2,
                    "volume_ml": 3.111,
                    "volume_interval_ml": [1.938, 4.777],
                    "longest_axial_diameter_mm": 19.242,
                    "diameter_interval_mm": [16.433, 22.199],
                    "touches_border": False,
                }
            ],
            "state": "new",
            "trend": None,
            "matched_by": None,
            "distance_mm": None,
            "where_mm": [63.248, 31.798, -4.85],
            "volume_ml": {
                "prior": 0.0,
                "prior_interval": [0.0, 0.0],
                "current": 3.111,
                "current_interval": [1.938, 4.777],
                "change": 3.111,
                "change_interval": [1.938, 4.777],
                "change_percent": None,
                "change_percent_interval": None,
            },
        },
        {
            "prior": [
                {
                    "id": 1,
                    "volume_ml": 5.568,
                    "volume_interval_ml": [4.248, 7.296],
                    "longest_axial_diameter_mm": 23.324,
                    "diameter_interval_mm": [21.312, 25.523],
                    "touches_border": False,
                }
            ],
            "current": [],
            "state": "gone",
            "trend": None,
            "matched_by": None,
            "distance_mm": None,
            "where_mm": [8.035, -20.786, -14.419],
            "volume_ml": {
                "prior": 5.568,
                "prior_interval": [4.248, 7.296],
                "current": 0.0,
                "current_interval": [0.0, 0.0],
                "change": -5.568,
                "change_interval": [-7.296, -4.248],
                "change_percent": -100.0,
                "change_percent_interval": [-100.0, -100.0],
            },
        },
    ],
    "totals": {
        "liver_ml": {
            "prior": 1598.508,
            "prior_interval": [1520.142, 1680.39],
            "current": 1597.643,
            "current_interval": [1485.749, 1714.79],
            "change": -0.865,
            "change_interval": [-139.519, 140.077],
            "change_percent": -0.054,
            "change_percent_interval": [-8.726, 8.762],
        },
        "lesions_ml": {
            "prior": 8.448,
            "prior_interval": [6.336, 11.28],
            "current": 16.932,
            "current_interval": [12.3, 22.865],
            "change": 8.484,
            "change_interval": [3.054, 14.782],
            "change_percent": 100.426,
            "change_percent_interval": [13.701, 186.698],
        },
        "burden": {
            "prior": 0.005,
            "prior_interval": [0.004, 0.007],
            "current": 0.011,
            "current_interval": [0.007, 0.015],
            "change": 0.005,
            "change_interval": [0.001, 0.01],
            "change_percent": 100.535,
            "change_percent_interval": [-3.228, 207.873],
        },
    },
    "recist": {
        "targets": [
            {"prior_id": 1, "current_ids": [], "prior_mm": 23.324, "current_mm": 0.0, "matched_by": None},
            {"prior_id": 2, "current_ids": [1], "prior_mm": 18.974, "current_mm": 32.274, "matched_by": "overlap"},
        ],
        "least_measurable_mm": 10.0,
        "sum_mm": {
            "prior": 42.297,
            "prior_interval": [38.357, 46.664],
            "current": 32.274,
            "current_interval": [29.319, 35.302],
            "change": -10.023,
            "change_interval": [-15.296, -5.054],
            "change_percent": -23.698,
            "change_percent_interval": [-34.226, -13.609],
        },
        "new_lesions": 1,
    },
}
