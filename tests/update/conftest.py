from hypothesis import settings

# A deadline for each example would measure how busy the machine is; the timeout of pytest bounds the whole test.
settings.register_profile("update", deadline=None)
settings.load_profile("update")
