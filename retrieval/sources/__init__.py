"""Which documents do files of many formats hold?"""
