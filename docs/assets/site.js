// Opened from the disk, a page may not fetch the search's index: without a server there is no search.
if (location.protocol === "file:") {
  document.querySelectorAll(".md-search, [data-md-component='search']").forEach((one) => one.remove());
}
