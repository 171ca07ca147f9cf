// Send what is dropped on #drop-zone to the studio, folder by folder, then tell gradio by the field #drop-done.
(() => {
  const chinese = () => document.documentElement.lang === 'zh';
  const say = (en, zh) => { document.querySelector('#drop-zone .state-line').textContent = chinese() ? zh : en; };
  const zone = (event) => event.target instanceof Element && event.target.closest('#drop-zone');
  const promised = (call) => new Promise(call);

  async function walk(entry, at) {
    if (entry.name.startsWith('.')) return [];
    if (entry.isFile) return [{ path: at + entry.name, file: await promised((ok, no) => entry.file(ok, no)) }];
    const reader = entry.createReader(), found = [];
    for (;;) {  // a reader gives a hundred entries at a time
      const some = await promised((ok, no) => reader.readEntries(ok, no));
      if (!some.length) break;
      for (const inner of some) found.push(...await walk(inner, `${at}${entry.name}/`));
    }
    return found;
  }

  async function send(found) {
    if (!found.length) return say('there is no file in it', '其中没有文件');
    const batch = Array.from(crypto.getRandomValues(new Uint8Array(8)), (b) => b.toString(16).padStart(2, '0')).join('');
    const all = found.reduce((sum, { file }) => sum + file.size, 0);
    let sent = 0;
    for (const { path, file } of found) {
      const share = all ? Math.floor(100 * sent / all) : 0;
      say(`copying ${path} · ${share} %`, `正在复制 ${path} · ${share} %`);
      const answer = await fetch(`drop/${batch}?path=${encodeURIComponent(path)}`, { method: 'POST', body: file });
      if (!answer.ok) throw new Error(await answer.text());
      sent += file.size;
    }
    say('', '');
    const field = document.querySelector('#drop-done :is(input, textarea)');
    field.value = batch;
    field.dispatchEvent(new Event('input', { bubbles: true }));
  }

  const failed = (error) => say(`not copied: ${error.message}`, `未能复制：${error.message}`);

  function pick() {
    const input = Object.assign(document.createElement('input'), { type: 'file', webkitdirectory: true });
    input.onchange = () => send(Array.from(input.files, (file) => ({ path: file.webkitRelativePath || file.name, file })))
      .catch(failed);
    input.click();
  }

  document.addEventListener('click', (event) => { if (zone(event) && event.target.closest('.pick')) pick(); });
  for (const name of ['dragenter', 'dragover', 'dragleave', 'drop']) {
    document.addEventListener(name, (event) => {
      const over = zone(event);
      if (!over) return;
      event.preventDefault();
      over.classList.toggle('over', name === 'dragenter' || name === 'dragover');
      if (name !== 'drop') return;
      const entries = Array.from(event.dataTransfer.items, (item) => item.webkitGetAsEntry()).filter(Boolean);
      Promise.all(entries.map((entry) => walk(entry, ''))).then((lists) => send(lists.flat())).catch(failed);
    });
  }
})();
