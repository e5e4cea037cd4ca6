"""Names of renditions: what is stored stays stored when a setting is added."""

from pipelines.media.requests import MediaSettings, rendition


def test_media_stored_before_a_setting_was_added_are_not_requested_again():
    assert rendition(MediaSettings(), "image") == "b3bdd25af027"
    assert rendition(MediaSettings(), "video") == "47b8b7f6cf3b"
    changed = MediaSettings.model_validate(
        {"images": {"convert_profile": False}, "video": {"image": {"convert_profile": False}}}
    )
    for type_ in ("image", "video"):
        assert rendition(changed, type_) != rendition(MediaSettings(), type_)
