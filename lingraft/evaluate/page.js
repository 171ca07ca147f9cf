(function () {
  var root = document.documentElement;
  function choose(language) {
    root.lang = language;
    document.querySelectorAll("[data-choose]").forEach(function (button) {
      button.setAttribute("aria-pressed", String(button.dataset.choose === language));
    });
  }
  document.querySelectorAll("[data-choose]").forEach(function (button) {
    button.addEventListener("click", function () { choose(button.dataset.choose); });
  });
  document.querySelectorAll("[data-copy]").forEach(function (button) {
    button.addEventListener("click", function () {
      var code = button.parentNode.querySelector("code");
      var range = document.createRange();
      range.selectNodeContents(code);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      if (navigator.clipboard) { navigator.clipboard.writeText(code.textContent).catch(function () {}); }
      button.classList.add("done");
    });
  });
  var wanted = (location.hash.match(/^#(en|zh)$/) || [])[1];
  choose(wanted || ((navigator.language || "en").slice(0, 2) === "zh" ? "zh" : "en"));
})();
