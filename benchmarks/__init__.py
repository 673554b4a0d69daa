"""Programs that measure, none of them part of the tests."""
