"""HoMer: click-through rates of a whole set of candidates, read with the user's panoramic past"""
