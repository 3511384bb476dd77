import { render } from "preact";

import { Api } from "./api";
import { App } from "./panels/App";
import { Studio } from "./studio";

const studio = new Studio(new Api());
render(<App studio={studio} />, document.getElementById("app") as HTMLElement);
void studio.restore();
