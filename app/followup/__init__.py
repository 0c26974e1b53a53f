"""What became of each lesion since an earlier scan: livers registered, lesions matched, changes with their uncertainty.

prior.py          the earlier labels, and what the report beside them says
distance_map.py   a liver as signed distances on a coarse grid
registration.py   rigid, then elastic, by the livers' distances alone (SimpleITK); alignment.py is what comes out
lesions.py        volumes and diameters with their intervals; estimate.py is how intervals go on into changes
matching.py       which lesions are the same; recist.py the sum of target lesions
shown.py          words and tables for people
compare.py        puts them together into the section `follow_up` of a report, which result.py describes
"""
