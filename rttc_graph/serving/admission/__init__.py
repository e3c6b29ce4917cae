"""What stands between socket and routes: keys, rights of each route, queues, limits.

May import serving's options and errors, protocols and support.
"""
